"""The command on made studies: what the page says, and what it must not say."""

import errno
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
from made_runs import made as made_runs
from made_study import NAME, make, rename

from analysis import effects, evidence, figures, findings, render, report, tables, verdicts
from analysis.sections import scorecard
from analysis.statistics import estimate
from analysis.words import label, linked, plain
from study import data, space_file
from study.files import read_json, write_json
from study.opening import UsageError


def pages(folder: Path) -> tuple[str, str]:
    report.build(folder)
    return (folder / "report.html").read_text(), (folder / "report.md").read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study as `make` makes it, with its page."""
    folder = make(tmp_path_factory.mktemp("results") / "made")
    report.build(folder)
    return folder


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The page of a study with an arm of a strange name, another named as a candidate, and candidates that it lacks."""
    folder = make(tmp_path_factory.mktemp("results") / "made", images=50)
    rename(folder, "baseline", "candidate-2")
    rename(folder, "augmented", "$x_{ | <i>")
    about = read_json(folder / "study.json")
    write_json(folder / "study.json", about | {"budget": about["budget"] | {"candidates": 9}})
    return pages(folder)


def title(markdown: str) -> str:
    return markdown.splitlines()[0].removeprefix("# ")


def test_a_better_candidate(tmp_path: Path) -> None:
    html, text = pages(make(tmp_path / "made", seeds=6, gain=0.04, images=1000))
    assert title(text) == "Candidate-1 is better than the arm baseline, by 3.93 points of test accuracy"
    assert "The study is finished." in text
    assert "PREVIEW" not in html
    photos = html.count('role="img" aria-label="Test image ')
    assert html.count("<img ") == html.count(' alt="')
    assert html.count("<figcaption>") == html.count("<img ") + photos > 50
    stored = re.findall(r"^\.png-\d+ \{ background-image: (.*) \}$", html, re.MULTILINE)
    assert len(set(stored)) == len(stored) < photos, "a picture that several cards show is there once"
    assert re.search(r"\| candidate-1 − baseline +\| better +\| +\+3.93 \|", text)


def test_the_page_opens_on_the_pair_of_its_headline(odd: tuple[str, str]) -> None:
    assert re.findall(r" selected>(.+?)</option>", odd[0]) == ["candidate-1", "arm $x_{ | &lt;i&gt;"]


def test_a_worse_candidate_is_called_worse(tmp_path: Path) -> None:
    _, text = pages(make(tmp_path / "made", seeds=6, gain=-0.03, images=1000))
    assert title(text) == "Candidate-1 is worse than the arm baseline, by 3.07 points of test accuracy"
    assert "better" not in title(text)


def test_no_difference_is_claimed_that_the_interval_does_not_support(tmp_path: Path) -> None:
    _, text = pages(make(tmp_path / "made", gain=0.002))
    assert title(text) == "No difference shown between candidate-1 and the arm baseline"
    assert not re.search(r"\| candidate-1 − baseline +\| (better|worse)", text)


def test_one_seed_has_no_interval_and_says_so(tmp_path: Path) -> None:
    html, text = pages(make(tmp_path / "made", seeds=1, fidelity="preview"))
    assert title(text) == "One seed: whether candidate-1 and the arm baseline differ is not shown"
    assert "There is one seed, so there are no intervals." in text
    assert "one seed, so no interval" in text
    assert "95 % interval 8" not in text
    assert re.search(r"\| candidate-1 − baseline +\| not known: one seed +\| +\+1.67 \| +– \|", text)
    assert html.index("PREVIEW: 5 of 10 epochs.") < html.index("<h1>")
    assert "their intervals say how far other images would move them. What another seed would do is not known." in text
    assert "how far other seeds" not in text.replace("how far other seeds would move it, not other images", "")
    assert "Other seeds of the two are not known." in text
    table = text[text.index("### Always, sometimes, never") :].splitlines()
    assert [line.split("|")[1].strip() for line in table[:8] if line.startswith("| ")][2:] == ["all of them"]


def test_an_interrupted_study_says_what_is_missing(tmp_path: Path) -> None:
    _, text = pages(make(tmp_path / "made", confirm=False))
    assert title(text) == "Nothing confirmed yet"
    assert "not finished (status: interrupted)" in text
    assert "Confirm: 0 trials have ended, 9 were planned." in text
    assert f"Go on with: python -m study.run --resume made --results {plain(str(tmp_path))}" in text


def test_a_study_with_fewer_candidates_than_planned_says_how_to_have_more(odd: tuple[str, str]) -> None:
    said = (
        " of 9 candidates: too few searched configurations ended an epoch. To search more: python -m study.run --extend"
    )
    assert said in odd[1].replace("\\", "")


def test_a_study_that_has_tried_its_whole_space_is_not_to_be_extended(tmp_path: Path) -> None:
    trials = pd.DataFrame({"stage": [], "status": [], "arm": []})
    for varied, more in (("{choice: [0.1, 0.2]}", False), ("{log: [0.1, 0.2]}", True)):
        space = f"model: three_block\noptimizer: {{adam: {{lr: {varied}}}}}\nepochs: 1\n"
        (tmp_path / "space.yaml").write_text(f"{space}budget: {{trials: 9, candidates: 1, seeds: 1}}")
        budget = {"trials": 2, "candidates": 1, "seeds": 1}
        said = findings.state({"status": "finished", "fidelity": "full", "budget": budget}, trials, tmp_path)
        assert any(f"0 of 1 candidates: {'too few' if more else 'the space has no others'}" in line for line in said)
        assert any("--extend" in line for line in said) == more


def test_a_study_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    write_json(tmp_path / "made" / "study.json", {"name": "made", "status": "running"})
    _, text = pages(tmp_path / "made")
    assert title(text) == "Nothing to compare yet"
    assert (
        f"If it does not run any more, go on with: python -m study.run --resume made --results {plain(str(tmp_path))}"
        in text
    )
    assert "study.json does not say: command, created, fidelity, git, hardware, split, stages, versions." in text


def test_a_study_that_does_not_say_how_it_was_split(tmp_path: Path) -> None:
    folder = make(tmp_path / "made", images=50)
    about = read_json(folder / "study.json")
    del about["split"]
    write_json(folder / "study.json", about)
    _, text = pages(folder)
    assert "What the networks predicted: study.json does not say how the images were split." in text
    assert "## Leaderboard" in text
    assert "There are no predictions of confirmed networks to look at." in text


@pytest.mark.filterwarnings("ignore:May not flag all label issues")
def test_a_test_set_without_some_classes(tmp_path: Path) -> None:
    """Of eight images: no T-shirt/top, Dress, Sandal or Bag."""
    _, text = pages(make(tmp_path / "made", seeds=1, images=8))
    assert "1 test images, each followed by" in text
    assert "| Shirt" in text
    assert "| Dress" not in text[text.index("## Any two side by side") : text.index("## Under stress")]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("![x](http://a.b/c.png)", r"\!\[x\](http://a.b/c.png)"),
        (r"a\|b", r"a\\\|b"),
        ("a_b *c* `d` <e>\n# f", r"a\_b \*c\* \`d\` \<e> # f"),
    ],
)
def test_markdown_takes_text_as_text(text: str, escaped: str) -> None:
    assert plain(text) == escaped


def test_a_caption_links_the_whole_name_of_a_table() -> None:
    files = {plain(name): path for name, path in render.FILES.items()}
    said = linked(plain("Of maps. Tables: attention, attention_checks."), files, "[{name}]({path})")
    checks = "[attention\\_checks](tables/attention_checks.parquet)"
    assert said == f"Of maps. Tables: [attention](tables/attention.parquet), {checks}."


def test_names_with_markup_do_no_harm(made: Path) -> None:
    html, text = (made / "report.html").read_text(), (made / "report.md").read_text()
    seen: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append(tag)

    Tags().feed(html)
    assert seen.count("script") == 2, "the gallery's data and its script, and no other"
    assert "b" not in seen
    assert NAME not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "&lt;b&gt;out&lt;/b&gt; of memory" in html
    assert NAME not in text
    assert "\\<script>alert(1)" in text


def test_all_that_a_study_says_is_taken_as_text_in_markdown() -> None:
    template = (Path(report.__file__).parent / "page" / "report.md.j2").read_text()
    values = set(re.findall(r"{{ *(.+?) *}}", template))
    ours = re.compile(r""".+\| (plain|caption)|.+\.markdown\(\)|content\(.+\)|picture\.name|["'].+""")
    assert len(values) > 5
    assert [value for value in values if not ours.fullmatch(value)] == []


def test_an_arm_may_be_named_anything(odd: tuple[str, str]) -> None:
    html, text = odd
    assert "arm $x_{ | &lt;i&gt;" in html
    row = next(line for line in text.splitlines() if line.startswith("| arm $x"))
    assert row.count(" | ") == 6, "a border in a name is no border of the table"


@pytest.mark.parametrize("space", ["skip_connections.yaml", "resnet.yaml", "fashion_cnn.yaml"])
def test_networks_that_differ_are_named_differently(space: str) -> None:
    """As the terminal names them, but that it does not say whether there are shortcuts."""
    arms = space_file.load(space_file.FOLDER / space).arms
    rows = made_runs(space, seeds=1, images=50).trials.set_index("arm")
    labels = {name: label(row) for name, row in rows.iterrows()}
    assert {name: said.replace(" plain", "") for name, said in labels.items()} == {n: c.label for n, c in arms.items()}
    if space == "skip_connections.yaml":
        assert labels["deep_plain"] == "resnet 4-4-4-4 plain sgd lr=0.1 cosine"
        assert len(set(labels.values())) == 4


def test_failed_and_diverged_trials_are_listed_with_their_reason(made: Path) -> None:
    text = (made / "report.md").read_text()
    assert re.search(r"\| s0008 +\| resnet18 sgd lr=9 +\| diverged", text)
    assert re.search(r"\| s0009 +\| resnet18 sgd lr=9 +\| failed +\| RuntimeError: .*of memory", text)


def test_what_is_compared_in_the_search(made: Path) -> None:
    """The baseline arm alone: the space could have proposed nothing else of what the made search tried."""
    text = (made / "report.md").read_text()
    assert "1 of the search's 10 trials, 1 of them an arm, are compared" in text
    assert "up to epoch 10 of 10, which they reached" in text
    assert "is underrated" not in text, "they were compared at their full length"
    assert "How well early epochs foretold the end is not shown: it takes 8 trials that ran to their end" in text
    assert "early-epochs" not in text


def test_what_stopping_saved(made: Path) -> None:
    text = (made / "report.md").read_text()
    # 4 of 10 trials ran 3 of their 10 epochs at 9.5 s each: 28 epochs, 266 s
    assert "4 of 10 search trials were stopped early, which left out 28 of 100 epochs (28 %)" in text
    assert "would have taken 4 min more" in text


def test_the_page_is_one_file_and_the_same_when_made_again(made: Path) -> None:
    html, text = (made / "report.html").read_text(), (made / "report.md").read_text()
    assert not re.search(r'(src|href)="(?!data:|#part-|study\.json"|tables/\w+\.parquet")', html)
    assert re.findall(r'href="#(part-\d+)">(.+)</a>', html) == re.findall(r'<section id="(.+)">\n<h2>(.+)</h2>', html)
    assert "@import" not in html
    assert not re.search(r"url\((?!data:)", html)
    assert pages(made) == (html, text)
    for name in re.findall(r"\]\((figures/.*?)\)", text):
        assert (made / name).read_text().startswith("<?xml")


def test_nothing_of_the_users_changes_figures_or_tables(made: Path, tmp_path: Path) -> None:
    """Neither matplotlib's settings, which would end it here, nor folders that cannot be written, locale or threads."""
    study = tmp_path / "results" / made.name
    shutil.copytree(made, study, ignore=shutil.ignore_patterns("figures", "tables", "cache", "report.*"))
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 20\naxes.facecolor: red\nimage.lut: 7\n")
    (tmp_path / "latin").write_bytes(b"font.family: \xe9")
    users = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "MATPLOTLIBRC": str(tmp_path / "latin")}
    users |= {"HOME": "/proc/none", "MPLCONFIGDIR": "/proc/none", "XDG_CACHE_HOME": str(data._cache().parent)}
    users |= {"LC_ALL": "de_DE.UTF-8", "TZ": "Asia/Kolkata", "PYTHONHASHSEED": "1", "PYTHONUTF8": "0"}
    users |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1", "COLUMNS": "20"}
    users |= {"PYTHONPATH": str(Path(report.__file__).parents[1])}
    command = [sys.executable, "-m", "analysis.report", made.name, "--results", "results"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | users, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "matplotlib" not in done.stderr.lower()
    files = [path.relative_to(made) for path in made.rglob("*") if path.is_file() and path.parent.name != "cache"]
    assert len([path for path in files if path.suffix in (".svg", ".parquet")]) > 20
    assert [str(path) for path in files if (study / path).read_bytes() != (made / path).read_bytes()] == []


def test_settings_made_in_a_process_change_no_figure() -> None:
    rows = [figures.Row("a", [1.0, 2.0], estimate([1.0, 2.0]), True)]
    drawn = figures.dots(rows, "points")
    with figures.matplotlib.rc_context({"text.usetex": True, "font.family": "serif", "axes.facecolor": "red"}):
        assert figures.dots(rows, "points") == drawn


def test_the_newest_study_is_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, created in (("b-old", "2026-01-01T00:00:00+00:00"), ("a-new", "2026-02-01T00:00:00+00:00")):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "study.json", {"created": created})
    assert report.main(["--results", str(tmp_path)]) == 0
    assert str(tmp_path / "a-new" / "report.html") in capsys.readouterr().out


def test_a_study_goes_by_its_path_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "made", confirm=False)
    assert report.main([f"{tmp_path}/made/", "--top", "0"]) == 0
    assert str(tmp_path / "made" / "report.html") in capsys.readouterr().out
    assert report.main([f"{tmp_path}/made/", "--results", str(tmp_path / "other")]) == 2
    assert f"NAME: got {tmp_path}/made/ and --results {tmp_path}/other, must be in one" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nope", "../made", "", "."])
def test_a_study_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    make(tmp_path / "made", confirm=False)
    assert report.main([name, "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"got {name!r}, must be a study in {tmp_path}: made" in said or f"got {name} and --results " in said


def test_bad_input_is_one_message_and_exit_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "made", confirm=False)
    (tmp_path / "made" / "search" / "s0000" / "trial.json").write_text("{")
    assert report.main(["made", "--results", str(tmp_path)]) == 2
    [said] = [line for line in capsys.readouterr().err.splitlines() if "s0000/trial.json" in line]
    assert said.startswith("error: ")


def test_a_folder_without_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--results", str(tmp_path / "nothing")]) == 2
    assert "must be a folder with studies" in capsys.readouterr().err


def test_a_study_that_cannot_be_written_says_what_can_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "report.html")

    make(tmp_path / "made", confirm=False)
    monkeypatch.setattr(report, "write_whole", refuse)
    assert report.main(["made", "--results", str(tmp_path)]) == 74
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(
        "error: [Errno 30] Read-only file system: 'report.html'. A page is made in the study's folder:"
    )


@pytest.mark.parametrize(
    ("stop", "status", "said"),
    [(UsageError("TMPDIR: got 1 MiB"), 2, "error: TMPDIR: got 1 MiB"), (SystemExit(15), 130, "Interrupted. What took")],
)
def test_what_keeps_ray_from_starting_ends_it_in_order(
    stop: BaseException, status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def stopped(*_: object) -> None:
        raise stop

    make(tmp_path / "made", confirm=False)
    monkeypatch.setattr(report, "build", stopped)
    assert report.main(["made", "--results", str(tmp_path)]) == status
    assert capsys.readouterr().err.splitlines()[-1].startswith(said)


def test_sigterm_ends_it_as_ctrl_c_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "made", confirm=False)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    monkeypatch.setattr(report, "build", lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        assert report.main(["made", "--results", str(tmp_path)]) == 130
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("rows", "own", "said"),
    [
        ({}, "smoke.yaml", "resnet.yaml; optimizer.yaml"),
        ({}, "resnet.yaml", "optimizer.yaml"),
        ({"mine": ("not tested", "It takes arms.")}, "resnet.yaml", "optimizer.yaml"),
        (
            {"mine": ("not tested", "It takes arms."), "optimizer": ("not tested", "No run reaches 90 %.")},
            "smoke.yaml",
            "resnet.yaml; study optimizer does not: no run reaches 90 %",
        ),
        (
            {"mine": ("preview only", "It is."), "optimizer": ("not tested", "No run reaches 90 %.")},
            "resnet.yaml",
            "study mine, judged by other code: ○ preview only. It is.",
        ),
    ],
)
def test_what_a_study_cannot_test_is_said_of_the_others(rows: dict[str, tuple[str, str]], own: str, said: str) -> None:
    of = [{"study": name, "fidelity": "preview", "verdict": v, "why": why} for name, (v, why) in rows.items()]
    known = pd.DataFrame(of, columns=["study", "fidelity", "verdict", "why"]).assign(
        judged=", judged by other code", p=None
    )
    assert scorecard._others(known, "resnet.yaml, optimizer.yaml", own) == said


@pytest.mark.parametrize(
    ("preview", "said"),
    [
        (False, "this study tests 4: 1 supported, 1 contradicted, 1 parts differ, 1 inconclusive."),
        (True, "this study tests 4 as a preview, which supports and contradicts none."),
    ],
)
def test_how_conclusions_came_out_is_counted(preview: bool, said: str) -> None:
    came_out = ["supported", "parts differ", "inconclusive", "contradicted"]
    tested = pd.DataFrame({"verdict": ["preview only"] * 4 if preview else came_out})
    assert scorecard.summary(tested, 17, preview) == f"Of 17 conclusions that the two projects drew, {said}"


def test_every_verdict_has_a_sign_of_its_own() -> None:
    of_effects = get_args(effects.Verdict)
    assert {*scorecard.SIGNS} == {*of_effects, verdicts.DIFFER, verdicts.PREVIEW}
    assert len({*scorecard.SIGNS.values()}) == len(scorecard.SIGNS)


def test_what_lies_outside_of_a_study_is_neither_read_nor_changed(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "results" / "made"))
    outside = tmp_path / "outside"
    outside.mkdir()
    kept = outside / f".notes.{platform.node()}.999999999"
    kept.touch()
    (folder.parent / "\x1b[2J").mkdir()
    (folder.parent / "\x1b[2J" / "study.json").touch()
    assert report.main(["none", "--results", str(folder.parent)]) == 2
    assert r"\x1b[2J" in capsys.readouterr().err, "nor does it act in the terminal"
    (folder / "linked").symlink_to(outside)
    assert report.main(["made", "--results", str(folder.parent)]) == 2
    assert kept.exists()
    (folder / "linked").unlink()
    for name in ("linked", "piped"):
        (folder.parent / name / "tables").mkdir(parents=True)
    (folder.parent / "linked" / "tables" / "claims.parquet").symlink_to(folder / "tables" / "claims.parquet")
    os.mkfifo(folder.parent / "piped" / "tables" / "claims.parquet")
    assert evidence._elsewhere(folder).empty


def test_verdicts_of_other_code_are_told_apart(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "made"))
    assert set(evidence._elsewhere(tmp_path / "another").judged) == {""}
    tables.write(folder, "claims", tables.read(folder, "claims"), "of another time")
    assert set(evidence._elsewhere(tmp_path / "another").judged) == {", judged by other code"}
