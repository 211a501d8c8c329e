"""What goes into an import job: the model's files and nothing else of this machine."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from stageline.errors import ConfigError, ModelImportError
from stageline.importjob.archives import members, streamed
from stageline.importjob.files import Parcel, parcel


def tree(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_a_factory_takes_its_module_and_what_is_named(tmp_path: Path) -> None:
    here = tmp_path / "here"
    tree(here, "net.py", "layers.py", "data/mean.npy", "data/.git/config", "data/__pycache__/x.pyc", "other.txt")
    tree(tmp_path, "far/helpers/a.py")
    assert dict(parcel("net:make", here=here).files) == {"net.py": here / "net.py"}
    named = parcel("net:make", [Path("layers.py"), Path("data"), Path("../far/helpers")], here)
    assert sorted(named.files) == ["data/mean.npy", "helpers/a.py", "layers.py", "net.py"]
    assert not named.network


def test_a_package_goes_whole_and_one_of_the_image_not_at_all(tmp_path: Path) -> None:
    tree(tmp_path, "zoo/__init__.py", "zoo/parts/a.py", "elsewhere.py")
    assert sorted(parcel("zoo.parts.a:make", here=tmp_path).files) == ["zoo/__init__.py", "zoo/parts/a.py"]
    assert parcel("stageline_stage.zoo:resnet50", here=tmp_path) == Parcel("stageline_stage.zoo:resnet50", {})


@pytest.mark.parametrize("link", ["net.py", "net", "net/inner", "net/weights.bin"])
def test_a_link_that_leads_out_is_not_followed(tmp_path: Path, link: str) -> None:
    here, secret = tmp_path / "here", tmp_path / "secrets"
    tree(here, "other/x")
    tree(secret, "id")
    (here / link).parent.mkdir(exist_ok=True)
    (here / link).symlink_to(secret / "id" if "." in link else secret)
    with pytest.raises(ConfigError, match="is a link that leads out of"):
        parcel("net:make", here=here)


def test_a_secret_key_stays_here(tmp_path: Path) -> None:
    tree(tmp_path, "net.py", "keys/admin/admin.key")
    with pytest.raises(ConfigError, match=r"admin\.key is a secret key, which a model's code must not see"):
        parcel("net:make", [Path()], tmp_path)
    (tmp_path / "net.py").unlink()
    (tmp_path / "net.py").symlink_to(tmp_path / "keys/admin/admin.key")
    with pytest.raises(ConfigError, match="is a secret key"):
        parcel("net:make", here=tmp_path)


def test_an_archive_and_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree(tmp_path, "models/net.pt2", "bert/config.json", "bert/model.safetensors", "bert/pytorch_model.bin")
    assert parcel("models/net.pt2") == Parcel("net.pt2", {"net.pt2": Path("models/net.pt2")})
    found = parcel("bert")
    assert found.source == "hf:bert" and not found.network
    assert {name: path is not None for name, path in found.files.items()} == {
        "bert/config.json": True,
        "bert/model.safetensors": True,
        "bert/pytorch_model.bin": False,
    }
    assert parcel("hf:./bert") == Parcel("hf:bert", {name: Path(name) if one else None for name, one in
                                                     found.files.items()})  # fmt: skip
    assert parcel("hf:org/name") == Parcel("hf:org/name", network=True)


def test_what_cannot_be_sent_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelImportError, match=r"there is no file none\.pt2"):
        parcel(str(tmp_path / "none.pt2"))
    with pytest.raises(ConfigError, match=r"--include names .*nothing, which is not there"):
        parcel("net:make", [Path("nothing")], tmp_path)
    with pytest.raises(ConfigError, match="--include is for the code of factories"):
        parcel("hf:org/name", [Path()], tmp_path)
    with pytest.raises(ModelImportError, match="names no model"):
        parcel("nonsense")


def test_files_travel_as_an_archive_that_is_never_whole_in_memory(tmp_path: Path) -> None:
    tree(tmp_path, "a", "b")
    (tmp_path / "large").write_bytes(bytes(3 << 20))
    seen: list[tuple[int, int]] = []
    files = {"a": tmp_path / "a", "deep/er/large": tmp_path / "large", "empty": None}
    pieces = list(streamed("source", files, lambda sent, total: seen.append((sent, total))))
    assert max(map(len, pieces)) <= 1 << 20
    assert seen[-1] == (1 + (3 << 20), 1 + (3 << 20))
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        named = {one.name: (one.isdir(), one.size, one.mode, one.uid) for one in archive}
    assert named == {
        "source": (True, 0, 0o755, 0),
        "source/deep": (True, 0, 0o755, 0),
        "source/deep/er": (True, 0, 0o755, 0),
        "source/a": (False, 1, 0o644, 0),
        "source/deep/er/large": (False, 3 << 20, 0o644, 0),
        "source/empty": (False, 0, 0o644, 0),
    }
    assert {member.name: len(file.read()) for member, file in members(iter(pieces))} == {
        "source/a": 1,
        "source/deep/er/large": 3 << 20,
        "source/empty": 0,
    }


def test_a_file_that_shrinks_or_goes_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(3 << 20))
    with pytest.raises(ConfigError, match="weights got shorter while it was read"):
        for _ in streamed("source", {"weights": path}, lambda sent, total: path.write_bytes(b"")):
            pass
    path.unlink()
    with pytest.raises(ConfigError, match=r"cannot read .*weights: No such file"):
        list(streamed("source", {"weights": path}, lambda sent, total: None))
