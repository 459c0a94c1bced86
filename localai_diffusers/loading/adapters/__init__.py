"""What is put on a pipeline beside its own weights: LoRAs, textual inversions, IP-Adapters, ControlNets.

Here: finding, checking and applying them at load, and their part of a request. Not here: other components (loading).
"""
