"""The network that learns in the dark: pairs from the store, training, the model file, prediction. torch is here only."""

import os

# torch's threads wait for each other by spinning, as GNU's and Intel's OpenMP do by default. Beside another busy process, such as
# the one that drives the microscope, a step then takes ten times as long: here they sleep after some microseconds. It must be
# said before torch is loaded; who has said otherwise is obeyed.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("KMP_BLOCKTIME", "1")
