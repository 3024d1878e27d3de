"""A confirmation: chosen settings trained again with new seeds and measured on test images.

It runs on Ray's workers as a search does.
"""
