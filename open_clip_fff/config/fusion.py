"""The fusion model's settings: image-text matching and masked language modelling over the tokens of both towers."""

from dataclasses import dataclass
from typing import ClassVar

from open_clip_fff.config.fields import Settings, setting
from open_clip_fff.config.numbers import number
from open_clip_fff.config.topics import ALBEF, GRIT, MAFA, Topic, code
from open_clip_fff.plural import plural

ITM_NEGATIVES = ("hardest", "multinomial", "random")


def _weight(name: str) -> dict:
    return {
        "metavar": "W",
        "check": (lambda weight: 0.0 <= weight < float("inf"), f"--{name} is {{:g}}: it is 0 or greater"),
    }


@dataclass(frozen=True)
class FusionSettings(Settings):
    """A transformer that fuses an image's tokens with a caption's, as in ALBEF, GRIT-VLP and MAFA.

    Fields are documented by their flags' help. Its loss is added to the contrastive one: matching (ITM) of pairs, and
    masked language modelling (MLM) where the text tower has a mask token.
    """

    group: ClassVar[str] = "fusion"
    needs: ClassVar[str] = "--fusion-layers N"
    layers: int = setting(
        "fusion_layers",
        0,
        "layers of a transformer over the tokens of both towers, trained with them; 0 for none",
        check=(lambda layers: layers >= 0, "--fusion-layers is {}: it is 0 or more"),
    )
    width: int | None = setting(
        "fusion_width",
        None,
        "its width",
        unset="that of the text tower's tokens",
        metavar="W",
        check=(
            lambda width: width >= 1 and (width < 128 or width % 64 == 0),
            "--fusion-width is {}: a multiple of 64, as attention heads are 64 wide, or less than 128 for one head",
        ),
    )
    pretrained: str | None = setting(
        "fusion_pretrained",
        None,
        "starts from the fusion model of an exported folder, a run or a checkpoint, of the same sizes",
        unset="random weights",
        metavar="DIR|FILE",
    )
    itm_weight: float = setting("itm_weight", 1.0, "weight of image-text matching", **_weight("itm-weight"))
    itm_negatives: str = setting(
        "itm_negatives",
        "hardest",
        "the non-matching pairs: each image's most similar caption and each caption's most similar image; or "
        "ones drawn by similarity (ALBEF), or evenly",
        choices=ITM_NEGATIVES,
        when=lambda s: s.itm_weight > 0,
        needs="--itm-weight above 0",
    )
    mlm_weight: float = setting(
        "mlm_weight",
        1.0,
        "weight of masked language modelling, where the text tower has a mask token",
        **_weight("mlm-weight"),
    )
    mlm_probability: float = setting(
        "mlm_probability",
        0.5,
        "share of a caption's tokens that are masked",
        metavar="P",
        check=(lambda share: 0.0 < share < 1.0, "--mlm-probability is {:g}: greater than 0, less than 1"),
        when=lambda s: s.mlm_weight > 0,
        needs="--mlm-weight above 0",
    )

    def describe(self, masks: bool, discriminator: bool, grouped: bool) -> Topic:
        """The network and its two terms.

        `masks`: whether the text tower has a mask token. `discriminator`: whether match labels decide which hardest
        pairs are positives. `grouped`: whether mini-batches are grouped.
        """
        start = "" if self.pretrained is None else f", starting from {code(self.pretrained)}"
        width = "the text tower's width" if self.width is None else f"width {self.width}"
        source = f"MAFA, {MAFA}" if discriminator else f"GRIT-VLP, {GRIT}" if grouped else f"ALBEF, {ALBEF}"
        parts = [f"{plural(self.layers, 'layers')} of {width} over the tokens of both towers ({source}){start}"]
        if self.itm_weight:
            negatives = "each image's hardest caption and each caption's hardest image"
            if self.itm_negatives != "hardest":
                how = {"multinomial": "by similarity", "random": "evenly"}[self.itm_negatives]
                negatives = f"a caption for each image and an image for each caption, drawn {how}"
            if discriminator:
                negatives += ", a positive where the discriminator says match, the second hardest where it is ambiguous"
            parts.append(f"{number(self.itm_weight)} x image-text matching of own pairs and {negatives}")
        else:
            parts.append("no image-text matching")
        mlm = f"{number(self.mlm_weight)} x masked language modelling of {number(self.mlm_probability)} of the tokens"
        if not self.mlm_weight:
            mlm = "no masked language modelling"
        elif not masks:
            mlm = "no masked language modelling: the text tower has no mask token"
        parts.append(mlm)
        return Topic("fusion", tuple(parts))
