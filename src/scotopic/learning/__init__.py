"""The network that learns in the dark: pairs from the store, training, the model file, prediction. torch is here only."""
