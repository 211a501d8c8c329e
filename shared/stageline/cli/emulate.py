"""`stageline emulate`: a cluster of small boxes as containers on this machine, measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stageline.cli.options import json_option
from stageline.cli.output import emit_json, emit_table, json_text, note, reporting
from stageline.errors import ConfigError, StoreError
from stageline.lifecycle import interruptible

if TYPE_CHECKING:
    from stageline.cli.emulating import Result
    from stageline.emulation.site import Images
    from stageline.emulation.spec import Emulation

NONE = "-"
REPORT, TIMELINE, UTILISATION, PLAN = "report.json", "timeline.svg", "utilisation.svg", "plan.svg"


@click.command()
@click.argument("cluster", required=False)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help=f"Write {REPORT}, {TIMELINE}, {UTILISATION} and {PLAN} there.")  # fmt: skip
@click.option("--check", is_flag=True, help="Only say whether this machine can be that cluster.")
@click.option("--show", is_flag=True, help="Only print the file of a preset, to copy and change.")
@click.option("--clean", is_flag=True, help="Only remove what emulations have left whose process is gone.")
@click.option("--control-image", envvar="STAGELINE_CONTROL_IMAGE", default="stageline-control", show_default=True,
              help="Image of coordinator, gateway and load.")  # fmt: skip
@click.option("--stage-image", envvar="STAGELINE_STAGE_IMAGE", default="stageline-stage", show_default=True,
              help="Image of the nodes.")  # fmt: skip
@json_option
def emulate(
    cluster: str | None, out: Path | None, check: bool, show: bool, clean: bool, control_image: str, stage_image: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Build a cluster of small boxes from containers on this machine, load it, and report.

    CLUSTER is a YAML file, or a preset: pi-jetson-nuc, wifi-mesh-5, seifer-20. Each node has the processor,
    memory and link rates that the file gives it; nodes are lost and links change at its times. Needs Docker and the
    images of `make images`, and root where rates are limited. Nothing of it stays behind.

    \b
    Example:
      stageline emulate wifi-mesh-5 --out ./mesh
      stageline emulate pi-jetson-nuc --show > site.yaml && stageline emulate site.yaml
    """
    if clean:
        _clean(as_json)
        return
    if cluster is None:
        raise click.UsageError("Missing argument 'CLUSTER': a file or a preset.")
    from stageline.emulation.reading import find, read
    from stageline.emulation.site import Images

    path = find(cluster)
    if show:
        click.echo(path.read_text(), nl=False)
        return
    emulation, images = read(path), Images(control_image, stage_image)
    if check:
        _check(emulation, images, as_json)
        return
    _make(out)
    with interruptible():
        result = _run(emulation, images, quiet=as_json)
    _write(out, result)
    emit_json(result.report) if as_json else _print(result, out)


def _clean(as_json: bool) -> None:
    from stageline.emulation.runs import clean

    removed = clean()
    if as_json:
        emit_json({"removed": removed})
    else:
        click.echo(f"removed {', '.join(removed)}" if removed else "nothing was left over")


def _check(emulation: Emulation, images: Images, as_json: bool) -> None:
    from stageline.emulation.site import Site

    site = Site(emulation, images)
    try:
        site.check()
    finally:
        site.engine.close()
    about = {"emulation": emulation.name, "nodes": len(emulation.boxes), "cpus": round(emulation.cpus, 4)}
    if as_json:
        emit_json(about)
    else:
        click.echo(f"{emulation.name}: {about['nodes']} nodes with {about['cpus']:g} CPUs together: this machine can")


def _run(emulation: Emulation, images: Images, *, quiet: bool) -> Result:
    from stageline.cli.emulating import emulate as perform

    with reporting(f"emulating {emulation.name}", quiet=quiet) as report:
        return perform(emulation, images, report)


def _make(out: Path | None) -> None:
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make {out} ({error.strerror}): choose another directory for --out") from None


def _write(out: Path | None, result: Result) -> None:
    if out is None:
        return
    from stageline.cli.emulateplots import timeline, utilisation
    from stageline.cli.planpicture import picture

    report = result.report
    pictures = {TIMELINE: timeline(report), UTILISATION: utilisation(report)}
    if result.plan is not None:
        pictures[PLAN] = picture(result.plan)
    try:
        for name, text in {REPORT: json_text(report, indent=1) + "\n", **pictures}.items():
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write to {out}: {error.strerror}") from None


def _print(result: Result, out: Path | None) -> None:
    report = result.report
    phases = [_phase(phase) for phase in report["phases"]]
    emit_table(
        f"{report['emulation']}: {report['model']['name']}",
        ("after", "seconds", "answers/s", "p50 ms", "p99 ms", "failed", "then/s", "predicted/s", "ratio", "stages"),
        phases,
        right=("seconds", "answers/s", "p50 ms", "p99 ms", "failed", "then/s", "predicted/s", "ratio"),
    )
    emit_table(
        "utilisation",
        ("node", "CPUs", "used", "sent Mbit/s", "of limit", "received Mbit/s", "of limit", "memory MiB"),
        [_node(node) for node in report["utilisation"]],
        right=("CPUs", "used", "sent Mbit/s", "of limit", "received Mbit/s", "memory MiB"),
    )
    note(f"answers/s: of the whole time; then/s: of its second half; profiled: {_number(report['profiled_rps'])}/s")
    if out is not None:
        note(f"the report and its pictures are in {out}")


def _phase(phase: dict[str, Any]) -> list[str]:
    stages = " ".join(f"{one['nodes'][0]}:{one['blocks'][0]}-{one['blocks'][1]}" for one in phase["plan"])
    return [
        phase["after"],
        f"{phase['from_s']:.0f}-{phase['to_s']:.0f}",
        *(_number(phase[key]) for key in ("throughput_rps", "p50_ms", "p99_ms", "failed", "steady_rps")),
        _number(phase["predicted_rps"]),
        _number(phase["measured/predicted"]),
        stages or NONE,
    ]


def _node(node: dict[str, Any]) -> list[str]:
    return [
        node["node"],
        f"{node['cpus']:g}",
        _percent(node["cpu"]),
        *(text for way in ("up", "down") for text in (_number(node[f"{way}_mbps"]), _percent(node[way]))),
        str(node["memory_mib"]),
    ]


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}"


def _percent(part: float | None) -> str:
    return NONE if part is None else f"{100 * part:.0f} %"
