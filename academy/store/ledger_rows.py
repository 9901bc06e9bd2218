"""What a ledger row holds: one frozen record for each kind of row.

Rows are never rewritten, so these records read what earlier and later versions wrote: a field that came later has a
default, and an unknown key is kept. `as_json` gives back exactly the keys that were set or stored.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import ConfigDict, Field, SerializeAsAny, ValidationInfo, field_validator

from academy.records import Record

Kind = Literal[
    "verdict", "promotion", "rollback", "approval", "archive", "restore",
    "release", "supersede", "undo", "allow", "renewal", "refuse", "review",
]  # fmt: skip
Outcome = Literal["PROMOTE", "HOLD", "REJECT", "CANNOT DECIDE"]


class Stored(Record):
    """A record inside a row: keys of other versions are kept. An alias is a field's name in stored rows."""

    model_config = ConfigDict(extra="allow", serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    def as_json(self) -> dict[str, Any]:
        """The JSON object as it is stored."""
        return self.model_dump(mode="json", exclude_unset=True)


class Entry(Stored):
    """The body of a row. Each kind of row has its own class."""

    kind: ClassVar[Kind]


class VersionEntry(Entry):
    """The body of a row about one version."""

    version: str

    @property
    def digest(self) -> str:
        """The version's adapter."""
        raise NotImplementedError


EntryT_co = TypeVar("EntryT_co", bound=Entry, covariant=True)


class Row(Record, Generic[EntryT_co]):
    """One row; `at` is ISO 8601 in UTC, `family` the digest of the base model. The kind decides the body's class."""

    seq: int
    at: str
    family: str
    kind: Kind
    key: str
    body: SerializeAsAny[EntryT_co]

    @field_validator("body", mode="before")
    @classmethod
    def _read_body(cls, body: Any, info: ValidationInfo) -> Any:
        entry = ENTRIES.get(info.data.get("kind", ""))
        return body if entry is None or isinstance(body, entry) else entry.model_validate(body)

    def as_json(self) -> dict[str, Any]:
        """The row as a JSON object; the body as it is stored."""
        return self.model_dump(mode="json", exclude_unset=True)


class ScoreEstimate(Stored):
    """Both scores (shares from 0 to 1) and their difference with its 95 % interval, over groups of questions."""

    items: int
    groups: int
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    wins: int = 0
    ties: int = 0
    losses: int = 0
    p_gain: float
    p_loss: float


class SuiteFinding(Stored):
    """The result of one suite. `unused` is why it did not count; empty where it did."""

    suite: str
    role: str
    unused: str = ""
    whole: ScoreEstimate | None = None
    guard: ScoreEstimate | None = None


class StoredReason(Stored):
    """One condition of the decision to train, with its numbers in the sentence."""

    name: str
    met: bool
    sentence: str


class StoredDecision(Stored):
    """Why the challenger was trained. `forced`: a person overrode conditions that were not met."""

    train: bool
    forced: bool = False
    reasons: tuple[StoredReason, ...] = ()


class Contradicted(Stored):
    """Ids of a held-out lesson and of a new lesson of a batch that teaches another answer."""

    lesson: str
    against: str
    batch: str


class VerdictEntry(VersionEntry):
    """The result of an official examination: a version against the champion, on all suites of the settings."""

    kind = "verdict"

    outcome: Outcome
    because: str
    level: float  # the share of the error budget that this examination could spend
    spends: bool = True
    spent_before: int = Field(alias="looks_before")  # examinations that spent from the budget before this one
    analysis: int | None = Field(None, alias="look")  # the interim analysis that decided, from 0
    share_asked: float = Field(1.0, alias="asked")  # the share of the groups that were asked
    target: ScoreEstimate | None = None
    guard: ScoreEstimate | None = None
    smallest_gain: float | None = None  # that is detected with 80 % power
    findings: tuple[SuiteFinding, ...] = ()
    challenger: str  # digest of the adapter
    champion: str  # digest of the adapter, or "base"
    champion_version: str
    dataset: str  # digest
    order: str  # digest of the training order
    cursor: int  # the last lesson (seq) that the dataset covers
    decision: StoredDecision | None = None
    contradicted: tuple[Contradicted, ...] = ()
    record: str  # name of the file with all answers
    skipped: dict[str, str] = Field(default_factory=dict, alias="left_out")  # suites that were not asked: the reason

    @property
    def digest(self) -> str:
        """The challenger."""
        return self.challenger


class ChampionConfig(Stored):
    """Base model and recipe of a champion, for the history."""

    base_model: str = ""
    recipe: dict[str, Any] = Field(default_factory=dict)


class AdapterEntry(VersionEntry):
    """The body of a row about a version and its adapter (digest)."""

    adapter: str

    @property
    def digest(self) -> str:
        """The adapter."""
        return self.adapter


class ChampionEntry(AdapterEntry):
    """A change of the champion. `replaces` and `since` are filled in by `Ledger.set_champion`."""

    generation: int
    config: ChampionConfig = ChampionConfig()
    cursor: int  # the last lesson (seq) that the champion counts as learned
    verdict: int | None = None  # the row that it rests on; None for an activation by hand
    by: str = ""
    because: str = ""
    replaces: str = ""  # the version that was champion before
    since: int = 0  # the row that made that one champion


class PromotionEntry(ChampionEntry):
    """A version became champion on a verdict, or by hand without one."""

    kind = "promotion"


class RollbackEntry(ChampionEntry):
    """An earlier champion, or the base model, became champion again."""

    kind = "rollback"


class ApprovalEntry(AdapterEntry):
    """A person approved or declined a PROMOTE verdict."""

    kind = "approval"

    verdict: int
    approved: bool
    by: str = ""
    because: str = ""


class PackedEntry(AdapterEntry):
    """An adapter that was packed into the archive or unpacked from it."""

    sha256: str
    bytes: int
    packed_bytes: int
    seconds: float
    by: str = ""
    because: str = ""


class ArchiveEntry(PackedEntry):
    """An adapter's folder became one file of the archive."""

    kind = "archive"


class RestoreEntry(PackedEntry):
    """An archived adapter became a folder again."""

    kind = "restore"


class ReleaseEntry(Entry):
    """Lessons that were set aside count again; all of them where `batch` is None.

    They are suspects unless a person vouches for them.
    """

    kind = "release"

    batch: str | None
    lessons: int
    vouched: bool = False


class ReviewEntry(Entry):
    """A person admitted or refused feedback and lessons of sources that are not trusted. Names only, no texts."""

    kind = "review"

    admitted: bool
    selection: dict[str, tuple[str, ...]]
    ratings: int
    lessons: int
    by: str
    because: str = ""


class SupersedeEntry(Entry):
    """Lessons that answer a request otherwise were retired. Digests instead of texts: a lesson may be forgotten."""

    kind = "supersede"

    request: str
    answer: str
    retired: int


class UndoEntry(Entry):
    """A batch was undone as a whole, or restored."""

    kind = "undo"

    batch: str
    lessons: int
    restored: bool


class AllowEntry(Entry):
    """A person allowed an overlap with a suite."""

    kind = "allow"

    overlap: str


class RenewalEntry(Entry):
    """The hold-out was renewed: questions retired, fresh ones, their groups, and the number of verdicts before."""

    kind = "renewal"

    retired: int
    fresh: int
    groups: int
    after: int


class RefusalEntry(Entry):
    """A version must not be served, or may be again; or all versions before a number must not."""

    kind = "refuse"

    older_than: int | None = None
    adapter: str = ""
    version: str = ""
    refused: bool = True
    because: str = ""


ENTRIES: dict[Kind, type[Entry]] = {
    entry.kind: entry
    for entry in (
        VerdictEntry, PromotionEntry, RollbackEntry, ApprovalEntry, ArchiveEntry, RestoreEntry,
        ReleaseEntry, ReviewEntry, SupersedeEntry, UndoEntry, AllowEntry, RenewalEntry, RefusalEntry,
    )
}  # fmt: skip
"""Every kind of row with the class of its body."""
