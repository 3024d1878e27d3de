"""Names of the data sets that are read by torchvision; `torchvision_sets` knows their files."""

# What the name of one of them begins with.
TORCHVISION = "torchvision:"

# Those of images and classes that have a training and a test split, or none.
TORCHVISION_NAMES = (
    *("Caltech101", "Country211", "DTD", "EMNIST", "EuroSAT", "FGVCAircraft", "Flowers102", "Food101", "GTSRB"),
    *("Imagenette", "KMNIST", "OxfordIIITPet", "QMNIST", "RenderedSST2", "SEMEION", "STL10", "SUN397", "SVHN"),
    *("StanfordCars", "USPS"),
)
