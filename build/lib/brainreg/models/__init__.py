"""Networks that classify and give the feature maps that the regularizer compares.

The small ResNets of the method, timm's models, and the published weights.
"""
