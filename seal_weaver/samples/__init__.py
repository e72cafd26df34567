"""Jet samples: made from nothing, from another sample, or from a public data set.

- ``branches``: the branches of a jet sample, how each follows from the four-momenta, how they are written
- ``simulate``: top and QCD jets from Pythia and FastJet (``seal-weaver simulate``)
- ``convert``: from the files of public data sets (``seal-weaver convert``). ``toplandscape``, ``atlastop`` and
  ``quarkgluon`` know the layouts, ``padded`` what they share; ``conversion`` makes one file, ``readback`` checks it
- ``boost``: the same jets, each seen from a randomly boosted frame (``seal-weaver boost``)
- ``workers``: several processes
"""
