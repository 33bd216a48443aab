"""Meshes as files that other programs read: .obj, .stl, .mesh.ply, .mesh.glb, written and read by trimesh.

Colours at vertices are those that screens show, but in glTF, whose are linear light (glTF 2.0, 3.7.2.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.datasets.tone import from_srgb, to_srgb
from recon.export import suffix_of
from recon.meshes import Mesh

if TYPE_CHECKING:
    import trimesh

Array = NDArray[Any]

READ = (".obj", ".stl", ".ply", ".glb")
TEXTURED = (".obj", ".mesh.glb")  # those that have objects, too
LOSSES = {".stl": "colours"}
UNLIT = "KHR_materials_unlit"


def save(mesh: Mesh, path: Path) -> list[Path]:
    """Write a mesh in the format that the name of `path` ends with; returns the files, `path` first.

    An .obj with a texture has an .mtl and a .png of its name beside it.

    Raises:
        InputError: no format has this suffix, or a file cannot be written.
    """
    suffix = suffix_of(path, SAVERS)
    return _written(SAVERS[suffix](to_trimesh(mesh, path.stem if suffix in TEXTURED else None), path))


def save_parts(parts: Sequence[Mesh], path: Path) -> list[Path]:
    """Write meshes as one file: each an object of its own, where the format has such. Textures are left out."""
    import trimesh

    scene = trimesh.Scene()
    for number, part in enumerate(parts):
        scene.add_geometry(to_trimesh(part), geom_name=f"part_{number:03d}")
    suffix = suffix_of(path, SAVERS)
    return _written(SAVERS[suffix](scene if suffix in TEXTURED else scene.to_mesh(), path))


def load(path: Path) -> Mesh:
    """Read a mesh; `InputError` says what is wrong with it. Several in one file become one."""
    import trimesh

    kind = suffix_of(path, READ)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        scene = trimesh.load_scene(path, process=False, maintain_order=True)
        mesh = _joined([_placed(scene, node) for node in scene.graph.nodes_geometry])
    except Exception as error:  # of whatever kind: trimesh does not say which there are
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: not readable as a mesh ({said})") from error
    if not len(mesh.faces):
        raise InputError(f"{path}: holds no triangles")
    if mesh.colors is not None and kind == ".glb":
        return replace(mesh, colors=to_srgb(mesh.colors).astype(np.float32))
    return mesh


def _placed(scene: Any, node: str) -> Mesh:
    """What a node of a scene shows, where it shows it."""
    matrix, name = scene.graph[node]
    mesh = from_trimesh(scene.geometry[name])
    faces = mesh.faces[:, ::-1] if np.linalg.det(matrix[:3, :3]) < 0 else mesh.faces
    return replace(mesh, vertices=mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3], faces=faces)


def _joined(meshes: Sequence[Mesh]) -> Mesh:
    """Several as one, with colours where all have some; only one alone keeps its texture."""
    if len(meshes) == 1:
        return meshes[0]
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]
    colors = [mesh.colors for mesh in meshes if mesh.colors is not None]
    return Mesh(
        np.concatenate([np.empty((0, 3)), *(mesh.vertices for mesh in meshes)]),
        np.concatenate([np.empty((0, 3), np.int64), *faces]),
        np.concatenate(colors) if meshes and len(colors) == len(meshes) else None,
    )


def to_trimesh(mesh: Mesh, material: str | None = None) -> trimesh.Trimesh:
    """As trimesh has it.

    Args:
        material: what the texture is called; None: it is left out. With it, a vertex that has several texture
            coordinates is there several times.
    """
    import trimesh
    from PIL import Image

    if mesh.uvs is None or mesh.texture is None or material is None:
        colors = None if mesh.colors is None else np.rint(255 * mesh.colors.clip(0, 1)).astype(np.uint8)
        return trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=colors, process=False)
    corners = np.column_stack([mesh.faces.reshape(-1), mesh.uvs.reshape(-1, 2)])
    different, faces = np.unique(corners, axis=0, return_inverse=True)
    look = trimesh.visual.material.PBRMaterial(
        name=material,
        baseColorTexture=Image.fromarray(mesh.texture),
        baseColorFactor=[255, 255, 255, 255],
        metallicFactor=0.0,
        roughnessFactor=1.0,
    )
    visual = trimesh.visual.TextureVisuals(uv=different[:, 1:], material=look)
    vertices = mesh.vertices[different[:, 0].astype(np.int64)]
    return trimesh.Trimesh(vertices, faces.reshape(-1, 3), visual=visual, process=False)


def from_trimesh(loaded: Any) -> Mesh:
    """The triangles with their colours, or their texture."""
    vertices, faces = np.array(loaded.vertices, np.float64), np.array(loaded.faces, np.int64)
    visual = loaded.visual
    if visual.kind == "vertex":
        return Mesh(vertices, faces, _shares(visual.vertex_colors))
    if visual.kind == "texture" and visual.uv is not None and len(faces):
        material = visual.material
        image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
        if image is not None:
            uvs = np.asarray(visual.uv, np.float32)[faces]
            return Mesh(vertices, faces, None, uvs, np.asarray(image.convert("RGB")))
    colors = visual.vertex_attributes.get("color") if visual.kind == "texture" else None  # beside a material
    return Mesh(vertices, faces, None if colors is None else _shares(colors))


def _shares(colors: Array) -> Array:
    """[V,3] 0..1 from 8 bits, with or without alpha."""
    return np.asarray(colors)[:, :3].astype(np.float32) / np.float32(255)


def _obj(made: Any, path: Path) -> dict[Path, bytes]:
    import trimesh

    text, beside = trimesh.exchange.obj.export_obj(
        made, include_normals=False, return_texture=True, mtl_name=f"{path.stem}.mtl", header=None
    )
    return {path: text.encode(), **{path.with_name(name): content for name, content in beside.items()}}


def _stl(made: Any, path: Path) -> dict[Path, bytes]:
    import trimesh

    return {path: trimesh.exchange.stl.export_stl(made)}


def _ply(made: Any, path: Path) -> dict[Path, bytes]:
    import trimesh

    return {path: trimesh.exchange.ply.export_ply(made, vertex_normal=False)}


def _glb(made: Any, path: Path) -> dict[Path, bytes]:
    import trimesh

    scene = made if isinstance(made, trimesh.Scene) else trimesh.Scene({"mesh": made})
    for geometry in scene.geometry.values():
        if geometry.visual.kind == "vertex":
            linear = from_srgb(geometry.visual.vertex_colors[:, :3].astype(np.float64) / 255)
            geometry.visual.vertex_colors[:, :3] = np.rint(255 * linear)
    return {path: trimesh.exchange.gltf.export_glb(scene, include_normals=False, tree_postprocessor=_shine_not)}


def _shine_not(tree: dict[str, Any]) -> None:
    """Show the colours as they are: the light of the capture is in them."""
    materials = tree.setdefault("materials", [])
    if not materials:
        materials.append({"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}})
    for material in materials:
        material.setdefault("extensions", {})[UNLIT] = {}
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive.setdefault("material", 0)
    tree["extensionsUsed"] = [*tree.get("extensionsUsed", []), UNLIT]


def _written(files: dict[Path, bytes]) -> list[Path]:
    """Write what belongs together, the file that names the others last."""
    main = next(iter(files))
    try:
        for path in reversed(files):
            with atomic_write(path) as file:
                file.write(files[path])
    except OSError as error:
        raise InputError(f"{main}: cannot be written: {error.strerror or error}") from error
    return list(files)


SAVERS: dict[str, Callable[[Any, Path], dict[Path, bytes]]] = {
    ".obj": _obj,
    ".stl": _stl,
    ".mesh.ply": _ply,
    ".mesh.glb": _glb,
}
