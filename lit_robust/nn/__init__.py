"""Networks, and layers that stand before, after or around them; every model takes images in [0, 1]."""

from lit_robust.expectation import Expectation
from lit_robust.nn.additive_noise import AdditiveNoise
from lit_robust.nn.classifier import ImageClassifier
from lit_robust.nn.code_activation import CodeActivation
from lit_robust.nn.code_decoder import CodeDecoder, ResizingDecoder
from lit_robust.nn.code_dropout import CodeDropout
from lit_robust.nn.dct_encoder import DCTEncoder
from lit_robust.nn.dead_zone import DeadZone
from lit_robust.nn.defended import DefendedClassifier
from lit_robust.nn.dictionary import PatchAtoms, PatchDictionary
from lit_robust.nn.divisive_norm import DivisiveNorm
from lit_robust.nn.efficientnet_b0 import EfficientNetB0
from lit_robust.nn.ensemble import Ensemble
from lit_robust.nn.first_layer_dropout import FirstLayerDropout
from lit_robust.nn.from_file import FromFile
from lit_robust.nn.from_run import FromRun
from lit_robust.nn.gaussian_filter import GaussianFilter
from lit_robust.nn.hah_block import HaHBlock, HebbianLearner
from lit_robust.nn.hah_vgg import HaHVGG16
from lit_robust.nn.l1_norm_conv import L1NormConv2d
from lit_robust.nn.layer_costs import HebbianCost, LayerCost, WeightL1
from lit_robust.nn.level_quantizer import LevelQuantizer
from lit_robust.nn.pipeline import Pipeline
from lit_robust.nn.polarizing import PolarizingFrontEnd
from lit_robust.nn.preact_resnet import PreActResNet18
from lit_robust.nn.resnet import CIFARResNet18, CIFARResNet34
from lit_robust.nn.resnet32 import ResNet32
from lit_robust.nn.small_cnn import SmallCNN
from lit_robust.nn.small_vgg import SmallVGG
from lit_robust.nn.sparse_encoder import SparseEncoder
from lit_robust.nn.sparse_front_end import SparseFrontEnd
from lit_robust.nn.standardize import Standardize
from lit_robust.nn.threshold import FractionThreshold, MeanThreshold
from lit_robust.nn.top_t import TopT
from lit_robust.nn.vgg import VGG16
from lit_robust.nn.weight_norm_conv import WeightNormConv2d
from lit_robust.nn.wide_resnet import WideResNet
from lit_robust.nn.with_hah_blocks import WithHaHBlocks

__all__ = [
    "VGG16",
    "AdditiveNoise",
    "CIFARResNet18",
    "CIFARResNet34",
    "CodeActivation",
    "CodeDecoder",
    "CodeDropout",
    "DCTEncoder",
    "DeadZone",
    "DefendedClassifier",
    "DivisiveNorm",
    "EfficientNetB0",
    "Ensemble",
    "Expectation",
    "FirstLayerDropout",
    "FractionThreshold",
    "FromFile",
    "FromRun",
    "GaussianFilter",
    "HaHBlock",
    "HaHVGG16",
    "HebbianCost",
    "HebbianLearner",
    "ImageClassifier",
    "L1NormConv2d",
    "LayerCost",
    "LevelQuantizer",
    "MeanThreshold",
    "PatchAtoms",
    "PatchDictionary",
    "Pipeline",
    "PolarizingFrontEnd",
    "PreActResNet18",
    "ResNet32",
    "ResizingDecoder",
    "SmallCNN",
    "SmallVGG",
    "SparseEncoder",
    "SparseFrontEnd",
    "Standardize",
    "TopT",
    "WeightL1",
    "WeightNormConv2d",
    "WideResNet",
    "WithHaHBlocks",
]
