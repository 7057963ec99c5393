"""Search, confirm and record: a hyperparameter study of CNNs on Fashion-MNIST."""
