"""Jet samples: made from nothing, or from another sample.

- ``branches``: the branches of a jet sample, how each follows from the four-momenta, how they are written
- ``simulate``: top and QCD jets from Pythia and FastJet (``seal-weaver simulate``)
- ``boost``: the same jets, each seen from a randomly boosted frame (``seal-weaver boost``)
"""
