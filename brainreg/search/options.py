"""What a search runs on and what ends it: none of it changes what a trial is."""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from brainreg._utils.flags import COMMA_SEPARATED, DATA_DIR, RESULTS_DIR

# Options that end or name a search; what trains a fixed list of jobs has none of them.
SEARCH_ONLY = (
    *("num_samples", "minutes", "gpu_hours", "tolerance", "name", "id", "prior", "study", "log", "tensorboard"),
)

# The share of a GPU that is tried before a search begins; see `brainreg.search.packing`.
AUTO: Final = "auto"

# Trials of a search that another limit ends, at most.
MOST_TRIALS = 1000


class SearchOptions(BaseModel):
    """How a search is run; none of it changes what a trial is, and all of it may change when it is resumed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_samples: int | None = Field(
        None, ge=1, description="trials (absent: the space's own number; with another limit, that alone)"
    )
    minutes: float | None = Field(None, gt=0, description="begin no trial after these minutes (absent: no such limit)")
    gpu_hours: float | None = Field(
        None, gt=0, description="begin no trial after trials held GPUs so long, each counted (absent: no such limit)"
    )
    tolerance: float | None = Field(
        None,
        gt=0,
        description="begin no trial when the best setting is expected to be better than the recommended one by no more"
        " than this, in the objective (absent: no such limit)",
    )
    max_concurrent: int | None = Field(
        None, ge=1, description="trials at a time (absent: as many as the machine holds)"
    )
    cpus_per_trial: float = Field(1, ge=0.01, description="CPU cores that a trial takes")
    gpus_per_trial: Annotated[float, Field(ge=0)] | Literal["auto"] | None = Field(
        None,
        description="GPUs that a trial takes, 0.5 for two trials a GPU, auto to try what pays (absent: 1 where there"
        " is one)",
    )
    max_retries: int = Field(
        3, ge=0, description="times that a trial is tried again after a lost worker or node, or for lack of memory"
    )
    name: str | None = Field(None, description="name of the search's folder (absent: space and time)")
    id: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="what a confirmation draws its fresh seeds from (absent: another one for each search)",
    )
    prior: str | None = Field(
        None,
        description="name or folder of another search whose trials are copied before this one begins; num_samples are"
        " then run beside them (given without prior when it is resumed, all are counted)",
    )
    storage_path: str = Field(RESULTS_DIR, description="folder of the searches' folders, or s3://BUCKET/PATH")
    study: str | None = Field(
        None, description="database of the study, such as postgresql+psycopg://USER@HOST/NAME (absent: SQLite)"
    )
    data_dir: str = Field(DATA_DIR, description="folder of the data sets, on each node")
    address: str | None = Field(None, description="address of a running Ray cluster, or auto (absent: start Ray here)")
    dashboard_host: str = Field("127.0.0.1", description="where the dashboard of a Ray that is started here listens")
    log: Annotated[tuple[Literal["mlflow", "wandb", "tensorboard"], ...], COMMA_SEPARATED] = Field(
        (), description="trackers that are told of each trial, separated by commas"
    )
    tensorboard: bool = Field(False, description="the same as --log=tensorboard")

    @property
    def threads(self) -> int:
        """CPU threads of a trial."""
        return max(int(self.cpus_per_trial), 1)

    @property
    def loggers(self) -> tuple[str, ...]:
        """What is told of each trial, beside the search's own files."""
        return tuple(dict.fromkeys((*self.log, *(["tensorboard"] if self.tensorboard else []))))

    @property
    def open_ended(self) -> bool:
        """Whether time ends the search, and no number of trials."""
        return self.num_samples is None and (self.minutes is not None or self.gpu_hours is not None)
