"""What the report tells of an output whose texts are known."""

from __future__ import annotations

import collections
import html.parser
import io
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.unit.capfilt.outputs import Text, hostile_entry, png, shape_entries, write_output
from vlkit.capfilt.decision import Decision
from vlkit.capfilt.inputs import Item, Refused
from vlkit.capfilt.output import StoredOutput
from vlkit.capfilt.report import write_report
from vlkit.capfilt.report.charts import picture, svg
from vlkit.capfilt.report.examples import Example, thumbnail
from vlkit.capfilt.report.survey import BINS, Repeats, binned
from vlkit.capfilt.storage import Storage
from vlkit.cli import main
from vlkit.datasets.shapes.checker import check
from vlkit.errors import ConfigError, DataError


class Reading(html.parser.HTMLParser):
    """Elements, addresses and texts of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.elements, self.attributes, self.texts = collections.Counter(), [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements[tag] += 1
        self.attributes += attributes

    def handle_data(self, data):
        self.texts.append(data)


def image(key, itms, color=(1, 2, 3)):
    """An image with a web text (first score) and synthetic ones."""
    texts = [Text(f"text {key} {n}", "synthetic" if n else "web", itm, itm - 0.5) for n, itm in enumerate(itms)]
    return Item(key, png(color), "png", (texts[0].text,), {}), texts


def test_numbers_of_a_small_output(tmp_path):
    refused = [Refused("c", "image", "empty image"), Refused("c", "text", "no image")]
    shards = [
        [image("a", [0.9, 0.2]), image("b", [0.1, 0.4], (9, 9, 9)), *refused],
        [image("d", [0.5, 0.7]), image("e", [0.6, 0.3])],
    ]
    found = write_report(write_output(tmp_path, shards), examples=2)
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == json.loads(json.dumps(found))
    assert (found["web_kept"], found["synthetic_kept"], found["images_kept"]) == (0.75, 0.25, 0.75)
    assert found["counts"]["images"]["refused"] == {"empty image": 1}
    at = dict(zip(found["kept_at_threshold"]["threshold"], found["kept_at_threshold"]["web"]))
    assert [at[x] for x in (0.0, 0.5, 0.55, 0.6, 0.65, 1.0)] == [1, 0.75, 0.5, 0.5, 0.25, 0]
    at = dict(zip(found["kept_at_threshold"]["threshold"], found["kept_at_threshold"]["images"]))
    assert [at[x] for x in (0.0, 0.4, 0.45, 0.7, 0.75, 0.95)] == [1, 1, 0.75, 0.5, 0.25, 0]
    assert found["words"]["web"] == {"all": 3.0, "kept": 3.0}
    assert found["scores"]["web"]["itm"]["mean"] == pytest.approx(0.525, abs=1e-3)
    assert found["scores"]["synthetic"]["itc"]["50%"] == pytest.approx(-0.2, abs=2e-3)
    assert (found["repeated"]["images"]["all"], found["repeated"]["images"]["different"]) == (4, 2)
    assert "purity_before" not in found
    assert found["lines"][0] == "4 images: 3 kept, 1 dropped; 1 refused."


@pytest.mark.parametrize(
    "decision", [Decision(), Decision("web", 0.6), Decision("both", None, 0.3), Decision("synthetic", 0.4, 0.4)]
)
def test_keep_rates_at_the_threshold_are_the_keep_rates(decision, tmp_path):
    found = write_report(write_output(tmp_path, [shape_entries(0, 30), shape_entries(1, 10)], decision), examples=0)
    place = found["kept_at_threshold"]["threshold"].index(decision.threshold or 0.0)
    assert found["kept_at_threshold"]["images"][place] == pytest.approx(found["images_kept"])
    for source in ("web", "synthetic"):
        if decision.texts in ("both", source):
            assert found["kept_at_threshold"][source][place] == pytest.approx(found[f"{source}_kept"], abs=1e-6)


def test_purity_is_what_the_checker_says(tmp_path):
    entries = [each for each in shape_entries(3, 40) if not isinstance(each, Refused)]
    correct = collections.defaultdict(list)
    for item, texts in entries:
        for text in texts:
            right = check(text.text, item.fields["scene"]).strict
            correct[text.source].append(right)
            if text.itm >= 0.5:
                correct[f"{text.source}_kept"].append(right)
    found = write_report(write_output(tmp_path / "all", [entries[:25], entries[25:]]), examples=0)
    assert found["web_correct"] == found["purity_before"] == np.mean(correct["web"])
    assert found["web_correct_kept"] == np.mean(correct["web_kept"]) > found["web_correct"]
    assert found["synthetic_correct"] == np.mean(correct["synthetic"])
    assert found["purity_after"] == np.mean(correct["web_kept"] + correct["synthetic_kept"])
    part = write_report(write_output(tmp_path / "part", [entries], store_dropped=False), examples=4)
    assert "purity_before" not in part
    assert part["purity_after"] == found["purity_after"]


def test_a_report_of_scores_alone_says_why_it_has_no_examples(tmp_path):
    entries = shape_entries(3, 40)
    whole = write_report(write_output(tmp_path / "all", [entries]), examples=4)
    scores = write_report(write_output(tmp_path / "scores", [entries], store_images=False), examples=4)
    assert scores.pop("lines") == [*whole.pop("lines"), "No examples: images were not stored (run.output: scores)."]
    assert scores == whole  # purity too: the scenes are in the table
    assert whole["purity_before"] < whole["purity_after"]


def test_what_was_not_read_is_in_the_report(tmp_path):
    output = write_output(tmp_path, [shape_entries(3, 4)])
    record = json.loads((output / "capfilt.json").read_text()) | {"not_read": "3 .jpg (a.jpg, ...)"}
    (output / "capfilt.json").write_text(json.dumps(record))
    assert "Not read in the folders of the input: 3 .jpg (a.jpg, ...)." in write_report(output)["lines"]


def test_a_field_scene_of_another_kind_is_none(tmp_path):
    entries = [(Item("a", png(), "png", ("x",), {"scene": {"objects": "kitchen"}}), [Text("x", "web", 0.9)])]
    assert "purity_after" not in write_report(write_output(tmp_path, [entries]))


def test_the_page_shows_hostile_texts_as_texts_and_loads_nothing(tmp_path):
    entries = [hostile_entry()]
    key = '"><script>alert(3)</script>'
    entries.append((Item(key, png((9, 0, 0)), "png", ("x",), {}), [Text("</style><svg onload=a>", "web", 0.4)]))
    write_report(write_output(tmp_path, [entries]))
    page = Reading((tmp_path / "report" / "report.html").read_text())
    assert page.elements["script"] == page.elements["link"] == page.elements["iframe"] == 0
    assert page.elements["img"] >= 2
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    addresses = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "action", "data")]
    assert addresses
    assert all(value.startswith("data:image/") for value in addresses)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes
    shown = "".join(page.texts)
    assert "<script>alert(1)</script>" in shown
    assert "</style><svg onload=a>" in shown
    assert f"part-000 / {key}" in shown
    assert "\u202e" not in shown


def test_examples_are_drawn_and_from_the_border_with_kept_and_dropped_ones(tmp_path):
    values = np.linspace(0.01, 0.99, 50)
    shards = [
        [image(f"{shard}-{n}", [value, 1 - value], (n, shard, 0)) for n, value in enumerate(values)]
        for shard in range(2)
    ]
    write_report(write_output(tmp_path, shards, Decision(threshold=0.3)), examples=8)
    page = (tmp_path / "report" / "report.html").read_text()
    drawn, border = page.split("<h2>At the border</h2>")
    assert drawn.count("<img") == 8
    assert border.count("<img") == 8
    near = [
        part.split("</div>")[0] for part in border.split('<div class="text ')[1:] if " border" in part.split(">")[0]
    ]
    assert len(near) == 8
    assert all("itm .29" in part or "itm .31" in part for part in near)
    assert {part.split('"')[0] for part in near} == {
        f"{source} {kept} border" for source in ("web", "synthetic") for kept in ("kept", "dropped")
    }
    before = page
    write_report(tmp_path, examples=8)
    assert (tmp_path / "report" / "report.html").read_text() == before


def test_at_the_border_are_texts_that_the_threshold_decides(tmp_path):
    shards = [[image(f"{n}", [n / 20, n / 20], (n, 0, 0)) for n in range(20)]]
    write_report(write_output(tmp_path, shards, Decision("web", 0.52)), examples=4)
    border = (tmp_path / "report" / "report.html").read_text().split("<h2>At the border</h2>")[1]
    assert border.count(' border"') == border.count('class="text web') == 4
    assert border.count('class="text synthetic dropped"') == 4


def test_an_image_that_its_table_only_has_is_reported(tmp_path):
    out = write_output(tmp_path / "out", [[image("a", [0.9])]])
    other = write_output(tmp_path / "other", [[image("b", [0.9])]])
    (other / "kept" / "part-000.tar").replace(out / "kept" / "part-000.tar")
    with pytest.raises(DataError, match="'a' of part-000 is in its table, but not in kept"):
        write_report(out)


def test_the_picture_is_one_and_as_large_as_its_examples_need(tmp_path):
    few = write_output(tmp_path / "few", [shape_entries(0, 2)])
    many = write_output(tmp_path / "many", [shape_entries(0, 9)])
    sizes = []
    for folder in (few, many):
        write_report(folder)
        with Image.open(folder / "report" / "report.png") as picture:
            sizes.append(picture.size)
            assert len(picture.convert("RGB").getcolors(1 << 22)) > 50
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] > sizes[0][1] + 2 * 192


@pytest.mark.parametrize(
    "entries",
    [
        [Refused("a", "image", "empty image"), Refused("a", "text", "no image")],
        [(Item("a", png(), "png", (), {}), []), Refused("a", "text", "no text")],
        [(Item("a", b"no image here", "jpg", ("x",), {}), [Text("x " * 300, "web", float("nan"), float("nan"))])],
        [
            (
                Item("a", png(size=1), "png", ("x",), {}),
                [Text("w" * 5000, "synthetic", 1.0, 1.0), Text("", "synthetic", 0.0)],
            ),
            Refused("a", "text", "no text"),
        ],
    ],
)
def test_unusual_outputs_have_a_report(entries, tmp_path):
    found = write_report(write_output(tmp_path, [entries]))
    assert found["shards"] == {"done": 1, "missing": 0}
    assert (tmp_path / "report" / "report.png").stat().st_size > 1000


def test_an_unfinished_job_has_a_report_of_what_is_done(tmp_path):
    found = write_report(write_output(tmp_path, [shape_entries(0, 3)], missing=2), examples=1)
    assert found["shards"] == {"done": 1, "missing": 2}
    assert "2 shards are missing here" in found["lines"][-1]
    with pytest.raises(DataError, match="no shard is done yet"):
        write_report(write_output(tmp_path / "none", [], missing=1))
    with pytest.raises(DataError, match="no output folder"):
        write_report(tmp_path / "report")
    with pytest.raises(ConfigError, match="examples: -1"):
        write_report(tmp_path, examples=-1)


def test_a_report_can_lie_elsewhere_and_be_read_from_an_object_store(tmp_path, capsys):
    write_output("memory://report_test/out", [shape_entries(0, 3)])
    assert main(["capfilt", "report", "memory://report_test/out", "--output", str(tmp_path), "--examples", "2"]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"report.html", "report.png", "report.json"}
    reported = capsys.readouterr().out
    assert "3 images:" in reported
    assert f"written: {tmp_path}" in reported


def test_parts_of_a_table_hold_whole_images(tmp_path, monkeypatch):
    monkeypatch.setattr("vlkit.capfilt.output._BATCH_ROWS", 4)
    entries = [image(str(n), [0.5] * (1 + n % 6)) for n in range(20)]
    with Storage(write_output(tmp_path, [entries])) as place:
        parts = [part["index"].to_pylist() for part in StoredOutput.open(place).shards[0].table(("index",))]
    assert len(parts) > 5
    assert list(itertools.chain(*parts)) == [n for n in range(20) for _ in range(1 + n % 6)]
    assert all(before[-1] < after[0] for before, after in itertools.pairwise(parts))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=2), max_size=60), st.integers(1, 100))
def test_repeats_are_counted_exactly_in_memory_and_in_files(texts, part):
    with Repeats(len(texts), part) as repeats:
        repeats.add(texts[:20])
        repeats.add(texts[20:])
        found = repeats.count(3)
    counter = collections.Counter(texts)
    assert (found.texts, found.different) == (len(texts), len(counter))
    wanted = sorted(((-count, text) for text, count in counter.items() if count > 1))[:3]
    assert found.top == [(text, -count) for count, text in wanted]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30))
def test_bins_are_exact_for_scores_of_six_places(units):
    scores = np.array(units) / 10**6
    wanted = np.bincount([min(unit // 1000, BINS - 1) for unit in units], minlength=BINS)
    assert (binned(np.append(scores, np.nan), 0) == wanted).all()


def test_a_chart_is_one_element_that_refers_to_nothing():
    def draw(axes):
        axes.plot([0, 1], [0, 1], label="a<b")
        axes.tick_params(left=False, bottom=False)
        axes.legend()

    element = svg('say "it"', draw)
    assert element.startswith('<svg role="img" aria-label="say &quot;it&quot;"')
    assert ">a&lt;b</text>" in element
    assert not [name for name, _ in Reading(element).attributes if name.endswith("href")]
    assert svg('say "it"', draw) == element


def test_the_picture_shows_any_text_as_it_is():
    texts = [
        {"text": text, "source": "web", "itm": None, "kept": True}
        for text in ("$\\frac{", "a$b$c", "", "\x00\ud83d \u202e \u6f22\u5b57" * 90)
    ]
    example = Example("a", "b", Image.new("RGB", (1, 192)), texts)
    assert picture("CapFilt", ["cost: $1 and $2_", "x" * 999], [], [example]).startswith(b"\x89PNG")


def test_thumbnails_are_small_and_in_proportion():
    file = io.BytesIO()
    Image.effect_noise((800, 200), 90).convert("RGB").save(file, "PNG")
    small = thumbnail(file.getvalue())
    assert small.size == (192, 48)
    address = Example("a", "b", small, []).data_url()
    assert address.startswith("data:image/jpeg;base64,")
    assert len(address) < 27_000
    assert Example("a", "b", thumbnail(png()), []).data_url().startswith("data:image/png;base64,")
    assert thumbnail(b"no") is None
