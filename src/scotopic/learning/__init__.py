"""The network that learns in the dark: pairs from the store, training, the model file, prediction. torch is here only."""

import os

# torch's threads wait for each other by spinning. Beside another busy process, such as the one that drives the microscope, a
# step then takes ten times as long: here they sleep. It must be said before torch is loaded; who has said otherwise is obeyed.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
