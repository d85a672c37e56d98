"""The flow layers: tfp bijectors over weights or networks they are handed; no Keras here."""
