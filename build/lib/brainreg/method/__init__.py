"""The method of arXiv 2410.03952: pixel similarity, the choice of pairs, and the similarity loss.

Pure tensor work: no data sets, no files, no training loop.
"""
