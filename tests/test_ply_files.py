"""Reading splat .ply files of any make, and what the reader of a broken one is told."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.datasets.errors import InputError
from recon.export import export, load
from recon.gaussians import Gaussians
from splat_files import ENCODINGS, assert_same, columns_of, random_gaussians, write_ply


@settings(deadline=None, max_examples=60)
@given(
    degree=st.integers(0, 3),
    count=st.integers(0, 4),
    encoding=st.sampled_from(ENCODINGS),
    types=st.lists(st.sampled_from(["f4", "f8"]), min_size=59, max_size=59),
    order=st.randoms(use_true_random=False),
    extra=st.booleans(),
    eol=st.sampled_from(["\n", "\r\n"]),
    comments=st.booleans(),
)
def test_any_order_type_and_encoding_loads(
    tmp_path_factory: pytest.TempPathFactory,
    degree: int,
    count: int,
    encoding: str,
    types: list[str],
    order: Any,
    extra: bool,
    eol: str,
    comments: bool,
) -> None:
    scene = random_gaussians(count, degree, seed=degree)
    columns = {name: v.astype(t) for (name, v), t in zip(columns_of(scene).items(), types, strict=False)}
    if extra:
        columns |= {
            "label": np.arange(count, dtype="u1"),
            "confidence": np.ones(count, "f8"),
            "nx": np.ones(count, "i2"),
        }
    names = list(columns)
    order.shuffle(names)
    lines = ["comment x y z end_header of ünicode", "obj_info num_cols 3", ""] if comments else []
    path = write_ply(
        tmp_path_factory.mktemp("ply") / "scene.ply",
        {name: columns[name] for name in names},
        encoding,
        before=lines,
        after=lines,
        eol=eol,
    )
    assert_same(load(path), scene)


def test_integer_fields_are_numbers_too(tmp_path: Path) -> None:
    scene = random_gaussians(3, 0)
    columns = columns_of(scene) | {"x": np.array([-3, 0, 12], "i2"), "scale_1": np.array([0, 1, 255], "u1")}
    loaded = load(write_ply(tmp_path / "scene.ply", columns))
    assert loaded.means[:, 0].tolist() == [-3, 0, 12]
    assert loaded.log_scales[:, 1].tolist() == [0, 1, 255]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_other_elements_are_passed_over(tmp_path: Path, encoding: str) -> None:
    scene = random_gaussians(4, 1)
    order = ">" if encoding == "binary_big_endian" else "<"
    chunk = np.arange(4, dtype=order + "f4").reshape(2, 2)
    faces = [[1, 2, 3], [], [7, 8]]
    if encoding == "ascii":
        head = b"0 1\n\n2 3\n" + b"".join(b" ".join(str(v).encode() for v in [len(f), *f]) + b" 9\n" for f in faces)
    else:
        head = chunk.tobytes() + b"".join(
            np.array(len(f), "u1").tobytes() + np.array(f, order + "i4").tobytes() + np.array(9, order + "i2").tobytes()
            for f in faces
        )
    before = ["element chunk 2", "property float low", "property float high", "element nothing 3"]
    before += ["element face 3", "property list uchar int vertex_indices", "property short material"]
    after = ["element edge 1", "property int a"]
    path = write_ply(
        tmp_path / "s.ply", columns_of(scene), encoding, before=before, after=after, head=head, tail=b"5 \n"
    )
    assert_same(load(path), scene)


def replaced(scene: Gaussians, name: str, row: int, value: float) -> dict[str, np.ndarray]:
    columns = {key: values.copy() for key, values in columns_of(scene).items()}
    columns[name][row] = value
    return columns


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("name", "value"), [("x", np.nan), ("opacity", np.inf), ("f_rest_4", -np.inf)])
def test_values_that_are_not_finite_are_named(tmp_path: Path, encoding: str, name: str, value: float) -> None:
    path = write_ply(tmp_path / "scene.ply", replaced(random_gaussians(4, 1), name, 2, value), encoding)
    with pytest.raises(InputError, match=rf"scene\.ply: {name} of Gaussian 2 is {value}$"):
        load(path)


def test_a_double_too_large_for_a_float_is_named(tmp_path: Path) -> None:
    columns = columns_of(random_gaussians(2, 0)) | {"z": np.array([0.0, 1e300])}
    with pytest.raises(InputError, match="z of Gaussian 1 is inf"):
        load(write_ply(tmp_path / "scene.ply", columns))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("promised", [5, 2**31, 2**40, 10**18 - 1])
def test_a_promise_of_more_than_the_file_holds_is_not_believed(tmp_path: Path, encoding: str, promised: int) -> None:
    path = write_ply(tmp_path / "scene.ply", columns_of(random_gaussians(4, 0)), encoding, promised=promised)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=f"truncated: the header promises {promised} rows of vertex, 4 are there"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("before", "head"),
    [
        (["element chunk 1099511627776", "property double v"], b""),
        (["element face 1099511627776", "property list uint double v"], b"\xff\xff\xff\xff"),
        (["element face 1", "property list char double v"], b"\xff"),
    ],
    ids=["huge element", "huge list", "negative list"],
)
def test_a_huge_element_before_the_vertices_is_not_believed(tmp_path: Path, before: list[str], head: bytes) -> None:
    path = write_ply(tmp_path / "scene.ply", columns_of(random_gaussians(4, 0)), before=before, head=head)
    with pytest.raises(InputError, match=r"scene\.ply: truncated"):
        load(path)


def test_every_truncation_is_an_input_error(tmp_path: Path) -> None:
    for encoding in ENCODINGS:
        whole = write_ply(tmp_path / "whole.ply", columns_of(random_gaussians(2, 0)), encoding).read_bytes().rstrip()
        path = tmp_path / "cut.ply"
        for length in range(len(whole) - 40):
            path.write_bytes(whole[:length])
            with pytest.raises(InputError, match=r"cut\.ply: "):
                load(path)


@settings(deadline=None, max_examples=300)
@given(edits=st.lists(st.tuples(st.integers(0, 600), st.binary(max_size=4)), max_size=4))
def test_damaged_files_load_or_are_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, bytes]]
) -> None:
    path = write_ply(tmp_path_factory.mktemp("ply") / "scene.ply", columns_of(random_gaussians(3, 0)))
    data = bytearray(path.read_bytes())
    for position, replacement in edits:
        data[position : position + len(replacement)] = replacement
    path.write_bytes(data)
    try:
        load(path)
    except InputError as error:
        message = str(error)
        assert "scene.ply" in message
        assert "\n" not in message


def header(*lines: str) -> bytes:
    return "\n".join([*lines, "end_header", ""]).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a .ply file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a .ply file"),
        (b"plywood\n", "not a .ply file"),
        (b"ply\n" + b"comment " + b"x" * 3_000_000, "no end_header"),
        (header("ply", "element vertex 1", "property float x"), "line 2 of the header"),
        (header("ply", "format ascii 1.0", "property float x"), "line 3 of the header"),
        (header("ply", "format binary_middle_endian 1.0"), "line 2 of the header"),
        (header("ply", "format ascii 1.0", "element vertex -1"), "line 3 of the header"),
        (header("ply", "format ascii 1.0", "element vertex 1" + "0" * 5000), "line 3 of the header"),
        (header("ply", "format ascii 1.0", "element vertex 1", "property quaternion q"), "line 4 of the header"),
        (header("ply", "format ascii 1.0"), "0 elements named vertex"),
        (header("ply", "format ascii 1.0", "element vertex 1"), "no properties"),
        (header("ply", "format ascii 1.0", "element vertex 1", "property list uchar int i"), "list properties"),
        (header("ply", "format ascii 1.0", "element vertex 1", *["property float x"] * 2), "property x twice"),
        (header("ply", "format ascii 1.0", "element vertex 1", "property float x") + b"1 2\n", "2 columns"),
        (header("ply", "format ascii 1.0", "element vertex 1", "property float x") + b"one\n", "could not convert"),
        (header("ply", "format ascii 1.0", "element vertex 1", "property int x") + b"nan\n", "cannot be read"),
        (
            header("ply", "format ascii 1.0", "element vertex 1", *(f"property float {a}" for a in "xyz")) + b"1 2 3\n",
            "not a file of Gaussian splats: its vertices have no f_dc_0, f_dc_1, f_dc_2 and 8 more",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.ply"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert message in text
    assert "\n" not in text
    assert len(text) < len(str(path)) + 200


@pytest.mark.parametrize(("rest", "message"), [(3, "3 f_rest fields"), (10, "10 f_rest fields"), (72, "72 f_rest")])
def test_a_number_of_coefficients_that_is_no_degree_is_refused(tmp_path: Path, rest: int, message: str) -> None:
    columns = columns_of(random_gaussians(2, 0)) | {f"f_rest_{i}": np.zeros(2, "f4") for i in range(rest)}
    with pytest.raises(InputError, match=f"{message}.*no SH degree"):
        load(write_ply(tmp_path / "scene.ply", columns))


def test_a_gap_in_the_coefficients_is_named(tmp_path: Path) -> None:
    columns = columns_of(random_gaussians(2, 1))
    columns["f_rest_9"] = columns.pop("f_rest_5")
    with pytest.raises(InputError, match=r"no f_rest_5$"):
        load(write_ply(tmp_path / "scene.ply", columns))


def test_missing_files_folders_and_suffixes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.ply: cannot be read: No such file"):
        load(tmp_path / "nowhere.ply")
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(InputError, match=r"folder\.ply: cannot be read: "):
        load(tmp_path / "folder.ply")
    with pytest.raises(InputError, match=r"scene\.xyz: no splat format has the suffix '\.xyz'; there is \.glb, "):
        load(tmp_path / "scene.xyz")
    with pytest.raises(InputError, match=r"scene: no splat format has the suffix ''"):
        export(random_gaussians(1, 0), tmp_path / "scene")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"scene\.ply: cannot be written: "):
        export(random_gaussians(1, 0), tmp_path / "file" / "scene.ply")
