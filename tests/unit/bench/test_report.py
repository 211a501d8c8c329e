from stageline.bench.recorder import Recorder
from stageline.bench.report import Settings, as_json, complaint, rows
from stageline.bench.schedule import Window

SETTINGS = Settings("net", 2, None, "poisson", 1.0, 0.0, 1, 0)


def test_what_was_not_timed_is_left_open_rather_than_called_fast() -> None:
    recorder = Recorder(Window(0.0, 1.0))
    recorder.failed(0.1, "deadline", "the deadline has passed")
    figures = recorder.figures()
    told = as_json(SETTINGS, figures)
    assert set(told["latency_ms"].values()) == {None} and told["mean_shared_batch"] is None
    assert dict(rows(SETTINGS, figures))["p99 ms"] == "-"
    assert complaint(SETTINGS, figures) == "none of 1 requests was answered: 1 × the deadline has passed"


def test_a_run_in_which_nothing_was_due_says_so() -> None:
    figures = Recorder(Window(0.0, 1.0)).figures()
    assert complaint(SETTINGS, figures) == "no request was due within 1 s: raise --duration or --rate"


def test_answers_leave_nothing_to_complain_of() -> None:
    recorder = Recorder(Window(0.0, 1.0))
    recorder.answered(0.1, 0.2)
    assert complaint(SETTINGS, recorder.figures()) == ""
