"""The commands that are recorded, in groups that share a working folder.

A case is a command line as a user types it. Cases of a group run one after the other in one
folder, so that a later one may read what an earlier one wrote.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from comparing import Tolerance

SCORES = Tolerance(relative=0.0, absolute=0.0)
EXACT = Tolerance(is_exact=True)
TRAINING = Tolerance(relative=1e-3, absolute=1e-3, tensors=1e-2)
LEARNING = Tolerance(relative=1e-3, absolute=1e-3, tensors=1e-3)
PLOTS = ("vl_convert",)


@dataclass(frozen=True)
class Case:
    """One command, and how its record is compared.

    Attributes:
        line: What is typed behind ``adaptermix``.
        tolerance: How much numbers and tensors may differ.
        volatile_hashes: It names hashes of files that hold versions, times or sums.
        view: What is kept of standard output: ``all`` of it, the ``words`` of a help page, or the
            ``shape`` of its JSON.
        files: Keep what files hold; otherwise only their names.
        needs: Packages without which it is left out.
    """

    line: str
    tolerance: Tolerance = field(default_factory=Tolerance)
    volatile_hashes: bool = False
    view: str = "all"
    files: bool = True
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Commands that share a folder.

    Attributes:
        material: Name of what writes the folder.
        cases: The commands.
        libraries: ``light`` where no command needs transformers, else ``heavy``.
    """

    material: str
    cases: tuple[Case, ...]
    libraries: str = "light"


# Merging -----------------------------------------------------------------------------------------

FACTOR_METHODS = ("factor-average", "peft-linear")
SUMS = ("exact", "peft-cat")
METHODS = (
    *SUMS,
    *"peft-svd magnitude ties dare dare-ties della knots tsv iso-c".split(),
    *FACTOR_METHODS,
)
TWO, TWO_OF_ONE_RANK = "task.safetensors align", "task.safetensors align8.safetensors"


def _merges() -> Iterator[Case]:
    """Every method on two and three adapters, cut to a rank, and in bfloat16."""
    for method in METHODS:
        tolerance = EXACT if method in SUMS else Tolerance()
        adds_factors = method in FACTOR_METHODS
        two = TWO_OF_ONE_RANK if adds_factors else TWO
        third = "style8.safetensors" if adds_factors else "style.safetensors"
        how = f"--method {method}"
        yield Case(f"merge {two} --weights 1,0.5 {how} -o {method}-2.safetensors", tolerance)
        line = f"merge {two} {third} --weights 0.6,0.3,-0.2 {how} -o {method}-3 --json"
        yield Case(line, tolerance)
        if not adds_factors:
            line = f"merge {two} --weights 1,0.5 {how} --rank 3 -o {method}-cut.safetensors"
            yield Case(f"{line} --json")
            line = f"merge task-bf16.safetensors align-bf16 --weight 0.7 {how}"
            yield Case(f"{line} -o {method}-bf16.safetensors", tolerance)


def _merge_options() -> Iterator[Case]:
    """What every merge can be told."""
    two, three = f"merge {TWO}", f"merge {TWO} style.safetensors"
    yield Case(f"{two} --weight 0.9", EXACT)
    yield Case(f"{two} --weight 0.9 --force", EXACT)
    yield Case(f"{two} --weight 0.9 -o folder", EXACT)
    yield Case(f"{two} --weight 0.9 --dry-run -o dry")
    yield Case(f"{two} --weight 0.9 --dry-run --json -o dry")
    yield Case(f"{three} --weights 1,1,1 --method ties --dry-run --json -o dry")
    yield Case(f"{two} --weights-file weights.toml -o ruled.safetensors --json", EXACT)
    yield Case(f"{two} --weights-file weights.toml --rank 2 -o ruled-cut.safetensors")
    for dtype in ("float32", "bfloat16", "float16"):
        yield Case(f"{two} --weight 0.5 --out-dtype {dtype} -o {dtype}.safetensors", EXACT)
        line = f"{two} --weight 0.5 --rank 4 --out-dtype {dtype} -o {dtype}-cut.safetensors"
        yield Case(line)
    yield Case("merge task-f16.safetensors align-f16 --weight 0.7 -o f16.safetensors", EXACT)
    yield Case("merge task-f16.safetensors align-f16 --weight 0.7 --method tsv -o f16-tsv")
    mixed = "merge task-bf16.safetensors align-f16 style.safetensors --weights 1,1,1"
    yield Case(f"{mixed} -o mixed.safetensors", EXACT)
    yield Case(f"{two} --weight 0.8 --inactive keep -o keep.safetensors --json", EXACT)
    silent = f"merge {TWO_OF_ONE_RANK} --weight 0.8"
    yield Case(f"{silent} -o silent.safetensors", EXACT)
    yield Case(f"{silent} --inactive keep -o silent-keep.safetensors", EXACT)
    yield Case(f"{silent} --inactive keep --method factor-average -o silent-average")
    yield Case(f"{two} --weights 1,0 -o alone.safetensors", EXACT)
    yield Case("merge task.safetensors --weights 1 --rank 2 -o cut.safetensors --json")
    yield Case("merge task.safetensors --weights=-0.5 -o minus.safetensors", EXACT)
    yield Case(f"{two} --weights 1,0.5 --isotropic -o isotropic.safetensors")
    yield Case(f"{two} --weights 1,0.5 --isotropic --rank 3 -o isotropic-cut.safetensors")
    yield Case(f"{two} --weights 1,0.5 --method magnitude --density 0.2 -o sparse.safetensors")
    yield Case(f"{two} --weights 1,0.5 --method della --epsilon 0.3 -o della.safetensors")
    yield Case(f"{two} --weights 1,0.5 --method dare --seed 2 -o dare.safetensors")
    line = "merge bare.safetensors --weights 1 --source-rank 4 --source-alpha 8 -o dressed"
    yield Case(line, EXACT)
    line = "merge task.safetensors other-base.safetensors --weight 0.5 --ignore-base"
    yield Case(f"{line} -o two-bases.safetensors", EXACT)
    saved = "merge saved-1.safetensors saved-2.safetensors"
    yield Case(f"{saved} --weight 0.25 -o saved.safetensors")
    biased = "merge biased-1.safetensors biased-2.safetensors --weights 0.5,0.7"
    yield Case(f"{biased} -o biased.safetensors", EXACT)
    yield Case(f"{biased} --method ties -o biased-ties --quiet")


def _foldings() -> Iterator[Case]:
    """Merges that are written as a whole model."""
    two = f"merge {TWO} --into base"
    yield Case(f"{two} --weight 0.9 --dry-run -o model")
    yield Case(f"{two} --weight 0.9 -o model", volatile_hashes=True)
    yield Case(f"{two} --weights 1,0.5 --method ties --out-dtype float32 -o ties --json")
    yield Case("merge saved-1.safetensors --weights 1 --into base -o saved", volatile_hashes=True)
    yield Case(f"{two} --weight 0.9 -o file.safetensors")
    yield Case("merge task.safetensors --weights 1 --into nowhere -o other")


def _inspections() -> Iterator[Case]:
    for line in (
        "task.safetensors",
        "align",
        "style.safetensors --by module",
        "saved-1.safetensors",
        "task.safetensors align",
        "task.safetensors align --by kind",
        "task.safetensors align style.safetensors",
        "task-bf16.safetensors task.safetensors --by module",
        "task.safetensors --json",
        "task.safetensors align --by kind --json",
        "bare.safetensors --source-rank 4 --source-alpha 8",
    ):
        yield Case(f"inspect {line}")


MERGE_ERRORS = (
    *(
        f"merge task.safetensors {name} --weight 0.5"
        for name in (
            "nowhere",
            "cut.safetensors",
            "stub.safetensors",
            "text.safetensors",
            "nan.safetensors",
            "integers.safetensors",
            "lonely.safetensors",
            "wrong-rank.safetensors",
            "no-rank.safetensors",
            "dora.safetensors",
            "strange.safetensors",
            "wide.safetensors",
            "no-json",
            "empty-folder",
            "other-base.safetensors",
            "bare.safetensors",
            "saved-1.safetensors",
        )
    ),
    "merge task.safetensors nan.safetensors --weight 0.5 --method ties",
    f"merge {TWO} --weights 1,2,3",
    f"merge {TWO} --weights 1,x",
    f"merge {TWO} --weights 1,nan",
    f"merge {TWO}",
    f"merge {TWO} --weight 0.5 --weights 1,1",
    "merge task.safetensors --weight 0.9",
    f"merge {TWO} --weight 0.5 --rank 0",
    f"merge {TWO} --weight 0.5 --rank many",
    f"merge {TWO} --weight 0.5 --method average",
    f"merge {TWO} --weight 0.5 --method factor-average",
    f"merge {TWO_OF_ONE_RANK} --weight 0.5 --method peft-linear --rank 2",
    f"merge {TWO} --weight 0.5 --method della --density 0.05 --epsilon 0.2",
    f"merge {TWO} --weight 0.5 --density 2",
    f"merge {TWO} --weight 0.5 -o align",
    f"merge {TWO} --weight 0.5 -o task.safetensors --force",
    f"merge {TWO} --weight 0.5 -o align/inside",
    f"merge {TWO} --weight 0.5 -o style.safetensors",
    f"merge {TWO} --weight 0.5 -o merged.bin",
    f"merge {TWO} --weight 0.5 --private",
    f"merge {TWO} --weights 1e300,1",
    "merge task-f16.safetensors align-f16 --weights 1e12,1e12 --rank 2",
    *(f"merge {TWO} --weights-file {name}.toml" for name in ("nowhere", "short", "slip", "range")),
    "merge saved-1.safetensors saved-2.safetensors --weights 1,1",
    "merge some/body align --weight 0.5",
    f"merge {TWO} --wieght 0.5",
    "merge",
    "inspect nowhere",
    "inspect task.safetensors wide.safetensors",
    "inspect nan.safetensors",
    "inspect task.safetensors --by row",
    "inspect task.safetensors --source-rank 0",
)

# Scoring -----------------------------------------------------------------------------------------


def _scores() -> Iterator[str]:
    for scorer in ("strict", "paper"):
        for lang, name, outputs in (
            ("cy", "cy-GB", "cy.txt"),
            ("en", "en-US", "en.txt"),
            ("en", "en-US", "en.out.jsonl"),
        ):
            line = f"score --lang {lang} --gold {name}.jsonl --predictions {outputs}"
            yield f"{line} --scorer {scorer}"
            yield f"{line} --scorer {scorer} --json"
    german = "score --task wmt23 --ref en-de.ref --target-lang de --predictions"
    yield f"{german} de.txt --metrics bleu,chrf"
    yield f"{german} de.jsonl --metrics bleu,chrf --json"
    yield f"{german} de.txt --metrics chrf --src en-de.src --json"
    yield f"{german} de.txt --metrics bleu,chrf --ref en-de.ref2 --json"
    for tokenizer in ("13a", "char", "intl", "none"):
        yield f"{german} de.txt --metrics bleu --tokenize {tokenizer} --json"
    for lang in ("zh", "ja"):
        line = f"score --task wmt23 --ref en-{lang}.ref --target-lang {lang}"
        yield f"{line} --predictions {lang}.txt --metrics bleu,chrf --json"
    for match in ("text", "offsets"):
        line = f"score --task uner --lang no --gold no.iob2 --match {match} --predictions"
        yield f"{line} no.txt"
        yield f"{line} no.txt --json"
        yield f"{line} no.jsonl --json"
    yield "score --task intent.toml --lang en --gold en-US.jsonl --predictions en.txt --json"
    yield "score --task echo.toml --lang en --gold en-US.jsonl --predictions en.txt"
    line = "score --task echo.toml --lang en --gold en-US.jsonl --predictions en.txt"
    yield f"{line} --metrics bleu --json"


SCORE_ERRORS = (
    "score",
    "score --task massiv",
    "score --task nowhere.toml",
    "score --task slip.toml --gold en-US.jsonl --predictions en.txt",
    "score --task mixed.toml --gold en-US.jsonl --predictions en.txt",
    "score --task field.toml --gold en-US.jsonl --predictions en.txt",
    "score --lang en --gold en-US.jsonl",
    "score --lang en --predictions en.txt",
    *(
        f"score --lang en --gold en-US.jsonl --predictions {name}"
        for name in (
            "nowhere.txt",
            "few.txt",
            "twice.jsonl",
            "unknown-id.jsonl",
            "no-output.jsonl",
            "empty.txt",
            "latin.txt",
        )
    ),
    *(
        f"score --lang en --gold {name}.jsonl --predictions en.txt"
        for name in (
            "nowhere",
            "bad",
            "lacking",
            "numbers",
            "cy-GB",
        )
    ),
    "score --lang xx --gold en-US.jsonl --predictions en.txt",
    "score --lang en --gold en-US.jsonl --predictions en.txt --split dev",
    "score --lang en --gold en-US.jsonl --predictions en.txt --scorer loose",
    "score --lang en --gold en-US.jsonl --predictions en.txt --metrics bleu",
    *(
        f"score --task uner --lang no --gold {name}.iob2 --predictions no.txt"
        for name in (
            "spaces",
            "tags",
            "nothing",
        )
    ),
    "score --task uner --lang xx --gold no.iob2 --predictions no.txt",
    "score --task wmt23 --target-lang de --predictions de.txt",
    *(
        f"score --task wmt23 --src en-de.src --ref {name}.ref --target-lang de --metrics bleu "
        "--predictions de.txt"
        for name in ("short", "gap")
    ),
    "score --task wmt23 --ref en-de.ref --target-lang de --predictions de.txt --metrics rouge",
)

# With a model ------------------------------------------------------------------------------------

ADAPTERS = "--adapter voice.safetensors --adapter align"


def _evaluations() -> Iterator[Case]:
    """Tests and a search; what was decoded once is in the cache the second time."""
    yield Case(f"eval {ADAPTERS} --dry-run -o first")
    yield Case(f"eval {ADAPTERS} -o first --json")
    yield Case(f"eval {ADAPTERS} -o second --json", files=False)
    yield Case(f"eval {ADAPTERS} -o table --baseline voice", files=False)
    yield Case(f"eval {ADAPTERS} -o paper --scorer paper --langs en,cy --exclude-base")
    line = "eval --task echo.toml --data-dir . --langs en,cy --adapter voice.safetensors -o echo"
    yield Case(line)
    search = "merge voice.safetensors align --search"
    yield Case(f"{search} 0.5,0.9 --dry-run -o found.safetensors")
    yield Case(f"{search} 0.5,0.9 -o found.safetensors --json", volatile_hashes=True)
    yield Case(f"{search} 0.5,0.9 -o again.safetensors", files=False)
    yield Case(f"{search} 1:0.2,1:0.5 -o pairs.safetensors --exhaustive --prefer best", files=False)
    line = f"{search} auto --trials 3 --layer-groups 2 -o auto.safetensors --json"
    yield Case(line, files=False, needs=("optuna",))
    line = f"{search} learn --learn-steps 2 --max-new-tokens 8 -o learnt.safetensors --json"
    yield Case(line, LEARNING, files=False, needs=("optuna",))
    yield Case("eval --adapter found.safetensors -o found --langs en", volatile_hashes=True)


def _retrievals() -> Iterator[Case]:
    line = f"retrieval --data parallel {ADAPTERS} --langs en,de,cy"
    yield Case(f"{line} --dry-run -o first")
    yield Case(f"{line} -o first --json")
    yield Case(f"{line} -o again", files=False)
    yield Case(
        "retrieval --data parallel --langs en,de,cy --pivot en --limit 8 --layers 0,4-6 "
        "--pooling weighted --pool-skip 1 --neighbors 2 -o pivot"
    )


def _trainings() -> Iterator[Case]:
    for name in ("task", "align", "joint"):
        yield Case(f"train-{name} --dry-run -o {name}.safetensors")
        yield Case(f"train-{name} --json -o {name}.safetensors", TRAINING, volatile_hashes=True)
    line = "train-task --rank 4 --layers-to-transform 0-3 --use-rslora --target-modules q_proj"
    yield Case(f"{line} -o small --quiet", TRAINING, volatile_hashes=True)
    line = "train-align --temperature 0.1,1.0 --layer 2 --preserve 0.5 --directions both"
    yield Case(f"{line} -o held --json", TRAINING, volatile_hashes=True)


RECIPE_ERRORS = (
    "cycle unknown-step unknown-key unknown-command no-command unknown-top wrong-value wrong-type "
    "missing-file missing-adapter managed no-adapter unknown-lang not-toml no-steps"
).split()


def _recipes() -> Iterator[Case]:
    yield Case("recipe new written.toml")
    yield Case("recipe new written.toml")
    yield Case("recipe new small.toml/inside.toml")
    yield Case("run small.toml --dry-run")
    yield Case("run small.toml --dry-run --json")
    yield Case("run other.toml --dry-run")
    yield Case("run small.toml --only look --json", volatile_hashes=True)
    yield Case("run small.toml", volatile_hashes=True)
    yield Case("run small.toml --json", volatile_hashes=True, files=False)
    yield Case("run small.toml --set test.limit=1 --dry-run", volatile_hashes=True)
    yield Case("run small.toml --limit 2 --set max-new-tokens=4 -o trial --quiet", files=False)
    yield Case("run other.toml --quiet", files=False)
    for name in RECIPE_ERRORS:
        yield Case(f"run {name}.toml --dry-run")
    for line in (
        "run unknown-lang.toml --quiet -o lang",
        "run nowhere.toml",
        "run small.toml --only nothing",
        "run small.toml --set limit",
        "run small.toml --set lmit=2",
        "run small.toml --set limit=no --dry-run",
        "run small.toml --limit 1",
    ):
        yield Case(line, files=False)


def _reports() -> Iterator[Case]:
    yield Case(f"eval {ADAPTERS} --langs en,cy --limit 2 -o test -q", files=False)
    line = "retrieval --data parallel --langs en,de,cy --limit 6 -o near -q"
    yield Case(line, files=False)
    found = "merge voice.safetensors align --search 0.5,0.9 --limit 2 -q -o found.safetensors"
    yield Case(found, files=False)
    everything = "report test near found.search voice.safetensors align"
    yield Case(f"{everything} --dry-run --json", needs=PLOTS)
    yield Case(
        f"{everything} --title 'Recorded' --export figures", needs=PLOTS, volatile_hashes=True
    )
    yield Case("report test --no-examples -o small.html --json", needs=PLOTS)
    for line in ("report test", "report nowhere -o new.html", "report corpus -o new.html"):
        yield Case(line, needs=PLOTS)


PROJECT_ERRORS = (
    *(
        f"train-task --config {name}.toml"
        for name in (
            "nowhere",
            "slip",
            "section",
            "top",
            "type",
            "syntax",
        )
    ),
    "eval --config bool.toml",
    "eval --config range.toml",
    "eval --adapter nowhere.safetensors",
    "eval --adapter voice.safetensors --adapter voice.safetensors",
    "eval --adapter align --baseline algin",
    "eval --langs en,xx",
    "eval --langs en,fr",
    "eval --task massiv",
    "eval --task wmt23 --langs en-de",
    "eval --task uner --langs en",
    "eval --model nowhere",
    "eval --model corpus",
    "eval --model some/body",
    "eval --max-new-tokens 5000",
    "eval --exclude-base",
    "eval -o align",
    "eval --metrics bleu",
    "train-task --langs xx",
    "train-task --langs fr",
    "train-task --rank 0",
    "train-task --lr high",
    "train-task --micro-batch-size 3",
    "train-task --target-modules q_prj",
    "train-task --layers-to-transform 9-12",
    "train-task --dev-chat chat.jsonl",
    "train-task --chat chat.jsonl",
    "train-task -o voice.safetensors",
    "train-task --epochs=-1",
    "train-align --pairs cy",
    "train-align --pairs xx-en",
    "train-align --pairs cy-en --pairs-dir columns",
    "train-align --pairs cy-en --pairs-dir nothing",
    "train-align --layer 99",
    "train-align --layer deep",
    "train-align --contrastive-batch 3",
    "train-align --preserve-text chat.jsonl",
    "train-joint --temperature 0.1,0.2",
    "train-joint --stop-on score --chat chat.jsonl",
    "retrieval --langs en,cy",
    "retrieval --data uneven --langs en,cy",
    "retrieval --data nowhere --langs en,cy",
    "retrieval --data uneven --langs en",
    "retrieval --data uneven --langs en,xx",
    "retrieval --data uneven --langs en,cy --pivot sw",
    "retrieval --data even --langs en,cy --layers 0,20",
    "merge voice.safetensors align --search 0.5,half",
    "merge voice.safetensors align --search auto --langs xx",
    "report",
    "demo -o align",
    "demo --seed=-1",
)

HELP = (
    *"train-task train-align train-joint merge eval score inspect report retrieval demo".split(),
    *("run", "recipe", "recipe new", "comet", "comet install", "comet status", "doctor"),
)


def _help() -> Iterator[Case]:
    yield Case("--version", view="words")
    yield Case("", view="words")
    yield Case("--help", view="words")
    for command in HELP:
        yield Case(f"{command} --help", view="words")
    yield Case("mrege", view="words")
    yield Case("doctor --json", view="shape")
    yield Case("comet status")
    yield Case("comet status --json", view="shape")


def _plain(lines: Iterator[str] | tuple[str, ...], **options: Tolerance) -> tuple[Case, ...]:
    return tuple(Case(line, **options) for line in lines)


GROUPS: dict[str, Group] = {
    "merge-methods": Group("adapters", tuple(_merges())),
    "merge-options": Group("adapters", tuple(_merge_options())),
    "merge-into": Group("folding", tuple(_foldings()), "heavy"),
    "merge-errors": Group("wrong adapters", _plain(MERGE_ERRORS)),
    "inspect": Group("adapters", tuple(_inspections())),
    "score": Group("outputs", _plain(_scores(), tolerance=SCORES)),
    "score-errors": Group("wrong outputs", _plain(SCORE_ERRORS)),
    "help": Group("outputs", tuple(_help())),
    "eval": Group("evaluations", tuple(_evaluations()), "heavy"),
    "retrieval": Group("parallel", tuple(_retrievals()), "heavy"),
    "train": Group("project", tuple(_trainings()), "heavy"),
    "recipe": Group("recipes", tuple(_recipes()), "heavy"),
    "report": Group("parallel", tuple(_reports()), "heavy"),
    "project-errors": Group("wrong projects", _plain(PROJECT_ERRORS), "heavy"),
}
