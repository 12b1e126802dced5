import json

from adaptermix.evaluation.harness_results import HarnessResults, Row, content_key

ROWS = [Row("a", "b", {"first": "a"}, {"acc,none": 1.0}), Row("c", "c", {}, {})]


def test_results_are_read_as_they_were_kept(answer_cache):
    HarnessResults(True).put("key", ROWS)
    results = HarnessResults(True)
    assert results.get("key") == ROWS
    assert results.get("other") is None
    assert HarnessResults(False).get("key") is None
    assert [path.name for path in (answer_cache / "lm-eval").iterdir()] == ["key.json"]


def test_damaged_results_are_made_again(answer_cache):
    results = HarnessResults(True)
    results.put("key", ROWS)
    path = answer_cache / "lm-eval" / "key.json"
    for text in (path.read_text()[:-9], json.dumps([{"output": "a"}]), "{}x"):
        path.write_text(text)
        assert results.get("key") is None
    assert len(results.notes) == 3


def test_a_cache_that_cannot_be_written_ends_in_a_note(answer_cache):
    answer_cache.write_text("a file where the folder should be")
    results = HarnessResults(True)
    results.put("key", ROWS)
    results.put("other", ROWS)
    assert [note.partition(" cannot")[0] for note in results.notes] == [
        "results of lm-eval's tasks"
    ]


def test_keys_know_the_source_of_functions():
    def made():
        def one(doc):
            return doc["a"]

        return one

    def other(doc):
        return doc["b"]

    functions = [made(), made(), other]  # the first two lie at two addresses
    keys = [content_key({"config": {"how": how}}) for how in functions]
    assert keys[0] == keys[1] != keys[2]
    assert content_key({"a": "\ud800"}) != content_key({"a": "?"})
    assert content_key({"how": len}) == content_key({"how": len}), "no address of memory"
