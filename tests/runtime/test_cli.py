"""The commands as a person or a script meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from omni_rt import Audio
from omni_rt.cli import app
from omni_rt.export.cli import commands
from omni_rt.plan_file import plan_file, plan_text
from tests.runtime.test_plan_file import FIT, fitted
from tests.runtime.tiny_bundle import rewrite, write_tiny_bundle

pytestmark = pytest.mark.slow

if not any(command.name == "random-checkpoint" for command in app.registered_commands):
    commands(app)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_help_shows_every_command_and_an_example() -> None:
    listed = run("--help").stdout
    for command in (
        "understand",
        "chat",
        "generate",
        "edit",
        "inspect",
        "verify",
        "bench",
        "score",
        "demo",
        "doctor",
        "export",
    ):
        assert command in listed
        assert run(command, "--help").exit_code == 0
    assert "omni-rt generate T2A" in run("generate", "--help").stdout
    assert "omni-rt export --config" in run("export", "--help").stdout


def test_generate_writes_the_file_and_says_how(standin_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "rain.wav"
    arguments = ("-b", standin_bundle, "--prompt", "rain", "--plan", "euler-2", "--seed", 3)
    result = run("generate", "T2A", *arguments, "-o", out, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["seed"] == 3
    assert told["file"] == str(out)
    assert Audio.read(out).duration_s == told["duration_s"] == 10.0


def test_edit_reads_what_it_is_given(standin_bundle: Path, tmp_path: Path) -> None:
    source = Audio(np.full((1, 8000), 0.1, np.float32), 8000).save(tmp_path / "in.flac")
    out = tmp_path / "out.mp3"
    result = run(
        "edit",
        "Remove",
        source,
        "-b",
        standin_bundle,
        "--desc",
        "hum",
        "--plan",
        "euler-2",
        "-o",
        out,
    )
    assert result.exit_code == 0
    assert abs(Audio.read(out).duration_s - 1.0) < 0.06  # mp3 pads to whole frames


def test_an_error_is_one_line_on_stderr(standin_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.wav"
    cases = [
        ("generate", "T2A", "-b", standin_bundle, "-o", out),
        ("generate", "T2A", "-b", tmp_path, "--prompt", "a", "-o", out),
        ("generate", "T2A", "-b", standin_bundle, "--prompt", "a", "--plan", "x-1", "-o", out),
        ("generate", "T2A", "-b", standin_bundle, "--prompt", "a", "--memory", "x", "-o", out),
        ("edit", "Remove", tmp_path / "no.wav", "-b", standin_bundle, "--desc", "a", "-o", out),
        ("inspect", tmp_path),
        ("verify", tmp_path),
        ("bench", tmp_path),
        ("export", "--config", "no", "--checkpoint", "no", "--out", tmp_path / "b"),
    ]
    for arguments in cases:
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stderr.strip().startswith("error: ")
        assert len(result.stderr.strip().splitlines()) == 1
        assert "Traceback" not in result.output
    assert not out.exists()


def test_a_file_that_cannot_be_written_is_told(standin_bundle: Path, tmp_path: Path) -> None:
    for out in (tmp_path / "x.aiff", tmp_path / "no" / "x.wav"):
        result = run(
            "generate", "T2A", "-b", standin_bundle, "--prompt", "a", "--plan", "euler-1", "-o", out
        )
        assert result.exit_code == 2
        assert "cannot write" in result.stderr


def test_inspect_names_stages_licence_and_parity(standin_bundle: Path) -> None:
    text = run("inspect", standin_bundle).stdout
    for word in ("dit_step", "weights:", "default plan euler-100", "pass"):
        assert word in text
    told = json.loads(run("inspect", standin_bundle, "--json").stdout)
    assert told["graphs"]["dit_step"]["precision"] == "fp32"


def test_inspect_shows_plans_and_their_errors(tmp_path: Path) -> None:
    manifest = write_tiny_bundle(tmp_path / "tiny")
    (tmp_path / "tiny/plans/ls3-3.json").write_text(plan_text(plan_file(fitted(7.0), fit=FIT)))
    rewrite(tmp_path / "tiny", manifest, plans={"ls3-3": "plans/ls3-3.json"}, default_plan="ls3-3")
    text = run("inspect", tmp_path / "tiny").stdout
    for word in ("ls3-3", "fitted", "0.0100", "0.0200"):
        assert word in text


def test_verify_measures_every_stage(standin_bundle: Path) -> None:
    result = run("verify", standin_bundle, "--json")
    assert result.exit_code == 0
    measured = json.loads(result.stdout)["measured"]
    assert {name.split("/")[0] for name in measured} == {
        p.stem for p in (standin_bundle / "graphs").glob("*.onnx")
    }


def test_bench_reports_stages_steps_and_memory(standin_bundle: Path) -> None:
    result = run("bench", standin_bundle, "--runs", 1, "--steps", 2, "--threads", 2, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["stages"]["vae_decoder"]["p50_s"] > 0
    assert told["step_gflop"] > 0
    assert told["peak_rss_bytes"] > 1e7
    table = run("bench", standin_bundle, "--runs", 1, "--steps", 1).stdout
    assert "p50 ms" in table
    assert "loop overhead" in table


def test_the_original_and_the_step_are_timed_side_by_side(standin_bundle: Path) -> None:
    result = run("bench-reference", standin_bundle, "--runs", 1, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["rel_l2"] < 1e-4  # the same velocity: the end-to-end bound of the certificate
    assert told["original_gflop"] > told["step_gflop"]


def test_the_library_that_runs_the_graphs_can_be_chosen(
    standin_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    result = run("verify", standin_bundle, "--engine", "openvino", "--threads", 1, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["engine"] == "openvino"
    only = ("--runs", 1, "--steps", 1, "--threads", 1, "--json")
    told = json.loads(run("bench", standin_bundle, *only, "--engine", "openvino").stdout)
    assert told["engine"] == "openvino"
    assert told["step"]["p50_s"] > 0
    out = tmp_path / "x.wav"
    asked = ("-b", standin_bundle, "--prompt", "a", "--plan", "euler-1", "-o", out)
    assert run("generate", "T2A", *asked, "--engine", "openvino").exit_code == 0
    assert out.exists()


def test_an_unknown_library_is_refused_by_every_command(
    standin_bundle: Path, tmp_path: Path
) -> None:
    given = ("-b", standin_bundle)
    for arguments in (
        ("generate", "T2A", *given, "--prompt", "a", "-o", tmp_path / "x.wav"),
        ("edit", "Remove", tmp_path / "no.wav", *given, "--desc", "a", "-o", tmp_path / "x.wav"),
        ("understand", "What?", *given),
        ("chat", *given),
        ("transcribe", tmp_path / "no.wav", *given),
        ("verify", standin_bundle),
        ("bench", standin_bundle),
        ("score", standin_bundle),
        ("demo", standin_bundle, "--out", tmp_path / "d"),
    ):
        result = run(*arguments, "--engine", "nope")
        assert result.exit_code == 2
        assert (
            "engine must be one of auto, onnxruntime, onnxruntime_cuda, openvino" in result.stderr
        )
        assert len(result.stderr.strip().splitlines()) == 1


def test_only_the_miniatures_sounds_can_be_judged(standin_bundle: Path, tmp_path: Path) -> None:
    for arguments in (("score", standin_bundle), ("demo", standin_bundle, "--out", tmp_path / "d")):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "8000 Hz, 16384 samples; this bundle has 44100 Hz" in result.stderr


def test_doctor_knows_this_machine() -> None:
    findings = json.loads(run("doctor", "--json").stdout)
    assert {"processor", "C++ loop", "engines", "audio files"} <= {f["what"] for f in findings}


def test_without_torch_the_runtime_works_and_export_says_what_to_install(
    standin_bundle: Path, tmp_path: Path
) -> None:
    blocked = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnx_ir', 'onnxscript', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "from omni_rt.cli import main\n"
        "main()\n"
    )

    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", blocked, *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    out = tmp_path / "a.wav"
    made = command(
        "generate", "T2A", "-b", standin_bundle, "--prompt", "a", "--plan", "euler-1", "-o", out
    )
    assert made.returncode == 0, made.stderr
    assert out.exists()
    told = command("export", "--config", "c", "--checkpoint", "k", "--out", tmp_path / "b")
    assert told.returncode == 2
    assert "pip install 'omni_rt[export]'" in told.stderr


def test_random_checkpoints_fit_their_configuration(standin: Path, tmp_path: Path) -> None:
    out = tmp_path / "random.safetensors"
    result = run(
        "random-checkpoint", "--config", standin / "config.json", "--out", out, "--depth", 1
    )
    assert result.exit_code == 0
    from omni_rt.export.checkpoint import open_checkpoint
    from omni_rt.export.config import read_config
    from omni_rt.export.reference.model import checked_tensors

    config, _ = read_config(tmp_path / "random.json")
    assert config.depth == 1
    checked_tensors(config, open_checkpoint(out).model)


def test_understand_answers_and_says_when_it_is_cut(standin_bundle: Path, tmp_path: Path) -> None:
    heard = Audio(np.full((1, 8000), 0.1, np.float32), 8000).save(tmp_path / "in.wav")
    arguments = ("understand", "What?", "-b", standin_bundle, "--audio", heard)
    plain = run(*arguments, "--max-new-tokens", 3)
    assert plain.exit_code == 0
    assert "cut after 3 tokens" in plain.stderr
    told = json.loads(run(*arguments, "--max-new-tokens", 3, "--json").stdout)
    assert told["tokens"] == 3
    assert not told["complete"]
    assert plain.stdout.rstrip("\n") == told["answer"].rstrip("\n")


def test_chat_goes_on_after_an_error(standin_bundle: Path) -> None:
    lines = "One?\n/audio none.wav\n/dance\n\nTwo?\n/new\nThree?\n/quit\nFour?\n"
    arguments = ["chat", "-b", str(standin_bundle), "--max-new-tokens", "1"]
    result = CliRunner().invoke(app, arguments, input=lines)
    assert result.exit_code == 0
    assert "no file at none.wav" in result.stderr
    assert "commands are /audio" in result.stderr
    assert result.stdout.count("\n") == 3


def test_a_video_output_is_a_copy_with_the_new_sound(standin_bundle: Path, tmp_path: Path) -> None:
    from omni_rt.soundtrack import sound
    from omni_rt.video import probe
    from tests.runtime.test_understand import write_video

    video, out = write_video(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    arguments = ("generate", "V2A", "-b", standin_bundle, "--plan", "euler-2", "--video", video)
    assert run(*arguments, "-o", out).exit_code == 0
    track = sound(out)
    assert track is not None
    assert track.duration_s == pytest.approx(probe(out).duration_s, abs=0.1)
    assert run(*arguments, "-o", tmp_path / "out.wav").exit_code == 0
    assert Audio.read(tmp_path / "out.wav").duration_s == pytest.approx(2.0)
    result = run(*arguments, "--duration", 5, "-o", tmp_path / "long.mp4")
    assert result.exit_code == 2
    assert "the video lasts 2.00 s" in result.stderr
    alone = ("generate", "T2A", "-b", standin_bundle, "--prompt", "a", "-o", tmp_path / "no.mp4")
    result = run(*alone)
    assert result.exit_code == 2
    assert "only V2A and V2M make a video" in result.stderr


def test_words_are_replaced_from_the_command_line(standin_bundle: Path, tmp_path: Path) -> None:
    from tests.runtime.test_understand import bursts

    source, out = bursts().save(tmp_path / "in.wav"), tmp_path / "out.wav"
    words = ("--transcript", "one two tree four", "--new-transcript", "one two seven four")
    arguments = ("edit", "Speech", source, "-b", standin_bundle, *words, "--plan", "euler-2")
    result = run(*arguments, "-o", out, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["spans"][0]["old"] == "tree"
    assert Audio.read(out).sample_rate_hz == Audio.read(source).sample_rate_hz
