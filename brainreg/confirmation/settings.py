"""How much a confirmation trains, and how it measures."""

from pydantic import BaseModel, ConfigDict, Field

from brainreg.evaluation.settings import Evaluation, NoiseStrengths, Strengths


class Extent(BaseModel):
    """How much is trained; both may grow when a confirmation goes on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top: int = Field(3, ge=1, description="how many of the search's best proposed settings are trained anew")
    seeds: int | None = Field(
        None,
        ge=2,
        description="fresh seeds of each setting (absent: the fewest with which a test that does not assume normal"
        " differences can find one, 7 or 8)",
    )


class TestEvaluation(Evaluation):
    """How a confirmation measures: as an evaluation does, around the search's eps and without a time limit."""

    __test__ = False  # pytest takes it for a test otherwise

    eps: Strengths = Field(
        None,
        description="strengths of the attacks that a norm bounds, in units of [0, 1] pixels, separated by commas"
        " (absent: half, once and one and a half times the search's)",
    )
    noise_eps: NoiseStrengths | None = Field(  # type: ignore[assignment]  # absent is not none
        None,
        description="strengths of noise that are measured beside those of its curves, separated by commas (absent: the"
        " search's)",
    )
    attack_minutes: float | None = Field(  # type: ignore[assignment]
        None,
        gt=0,
        description="time limit of an attack on one network (absent: no limit; with one, slower networks are"
        " measured on fewer images)",
    )
