"""A reader and a writer of the published-directory format, written from its description alone: it shares no
code with the program, and with nobody else's. docs/published.md has the format.

    reader: apply(stream, version, state) -> state      state: {name: (dtype, shape, bytes)}
    writer: publish(stream, version, base, old, new, …)
"""
import json
import os
import pathlib
import struct
import zlib

import numpy
import xxhash
import zstandard

INDEX = "model.safetensors.index.json"


class Refused(Exception):
    pass


def digest_of(format_, data):
    if format_ == "xxh3-128":
        return xxhash.xxh3_128_hexdigest(data)
    if format_ == "adler32":
        return f"{zlib.adler32(data):08x}"
    raise Refused(f"checksum format {format_}")


def read_safetensors(file):
    """(metadata, {name: (dtype, shape, bytes)})."""
    data = pathlib.Path(file).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = (entry["dtype"], entry["shape"], data[8 + length + begin:8 + length + end])
    return metadata, tensors


def write_safetensors(file, tensors, metadata=None, pad=True):
    header, offset = {}, 0
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    if pad:
        text += b" " * (-len(text) % 8)
    replace(file, struct.pack("<Q", len(text)) + text + b"".join(d for _, _, d in tensors.values()))


def replace(file, data):
    """As <file>.tmp, synced, renamed."""
    temporary = f"{file}.tmp"
    with open(temporary, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.rename(temporary, file)


def read_checkpoint(folder):
    """{name: (dtype, shape, bytes)} of an ordinary checkpoint."""
    folder = pathlib.Path(folder)
    files = [folder / "model.safetensors"]
    if (folder / INDEX).exists():
        index = json.loads((folder / INDEX).read_text())
        if "delta_encoding" in index.get("metadata", {}):
            raise Refused("a delta")
        files = sorted({folder / f for f in index["weight_map"].values()})
    state = {}
    for file in files:
        state.update(read_safetensors(file)[1])
    return state


def version_dir(stream, version):
    return pathlib.Path(stream) / f"weight_v{version:06d}"


def index_of(stream, version):
    return json.loads((version_dir(stream, version) / INDEX).read_text())


def apply(stream, version, state):
    """The state after one version. Checks all that the format lets it check."""
    index = index_of(stream, version)
    metadata = index["metadata"]
    if "delta_encoding" not in metadata:
        return read_checkpoint(version_dir(stream, version))
    if int(metadata["version"]) != version:
        raise Refused("version")
    if metadata["compression_format"] != "zstd":
        raise Refused("compression format " + metadata["compression_format"])
    new = dict(state)
    for shard in sorted(set(index["weight_map"].values())):
        digests, parts = read_safetensors(version_dir(stream, version) / shard)
        for name, (dtype, shape, data) in parts.items():
            if index["weight_map"].get(name) != shard:
                raise Refused(f"{name} is not mapped to {shard}")
            if dtype != "U8" or shape != [len(data)]:
                raise Refused(f"{name} is not a list of U8")
            old_dtype, old_shape, old = state[name]
            payload = zstandard.ZstdDecompressor().decompress(data, max_output_size=5 * len(old) + 4)
            if metadata["delta_encoding"] == "xor":
                if len(payload) != len(old):
                    raise Refused(f"{name} has another length")
                fresh = (numpy.frombuffer(old, numpy.uint8) ^ numpy.frombuffer(payload, numpy.uint8)).tobytes()
            elif metadata["delta_encoding"] == "overwrite":
                count = struct.unpack("<I", payload[:4])[0]
                if len(payload) != 4 + 5 * count:
                    raise Refused(f"{name} has another length")
                positions = numpy.frombuffer(payload, "<u4", count, 4)
                if count > 1 and not (numpy.diff(positions.astype(numpy.int64)) > 0).all():
                    raise Refused(f"{name} does not ascend")
                bytes_ = numpy.frombuffer(old, numpy.uint8).copy()
                bytes_[positions] = numpy.frombuffer(payload, numpy.uint8, count, 4 + 4 * count)
                fresh = bytes_.tobytes()
            else:
                raise Refused("delta encoding " + metadata["delta_encoding"])
            if digest_of(metadata["checksum_format"], fresh) != digests[name]:
                raise Refused(f"{name} does not match its checksum")
            new[name] = (old_dtype, old_shape, fresh)
        missing = {n for n, s in index["weight_map"].items() if s == shard} - set(parts)
        if missing:
            raise Refused(f"{shard} lacks {missing}")
    return new


def compress(payload, level=1, content_size=True, checksum=False, window_log=0):
    how = zstandard.ZstdCompressionParameters.from_level(level, write_content_size=content_size,
                                                         write_checksum=checksum, window_log=window_log)
    return zstandard.ZstdCompressor(compression_params=how).compress(payload)


def encode(encoding, old, new):
    a, b = numpy.frombuffer(old, numpy.uint8), numpy.frombuffer(new, numpy.uint8)
    if encoding == "xor":
        return (a ^ b).tobytes()
    at = numpy.flatnonzero(a != b).astype("<u4")
    return struct.pack("<I", len(at)) + at.tobytes() + b[at].tobytes()


def publish(stream, version, base, old, new, encoding="xor", checksum="xxh3-128", shards=1, level=1,
            content_size=True, frame_checksum=False, pad=True, unpadded_versions=False, shard_name=None,
            unchanged=False, index=True, metadata=None, spoil=None, window_log=0):
    """Writes one version as the systems in use do. `unchanged`: xor parts of zeros for tensors that did not
    change. `index`: whether the last file, which publishes, is written. `spoil(name, payload)` may change a
    payload before it is compressed."""
    folder = version_dir(stream, version)
    folder.mkdir(parents=True, exist_ok=True)
    names = [n for n in new if unchanged or new[n][2] != old[n][2]]
    weight_map = {}
    for shard in range(shards if names else 0):
        file = shard_name or f"model-{shard:05d}-of-{shards:05d}.safetensors"
        parts, digests = {}, {}
        for name in names[shard::shards]:
            payload = encode(encoding, old[name][2], new[name][2])
            if spoil:
                payload = spoil(name, payload)
            data = compress(payload, level, content_size, frame_checksum, window_log)
            parts[name] = ("U8", [len(data)], data)
            digests[name] = digest_of(checksum, new[name][2])
            weight_map[name] = file
        write_safetensors(folder / file, parts, digests, pad)
    spell = str if unpadded_versions else (lambda v: f"{v:06d}")
    text = {"metadata": {"version": spell(version), "base_version": spell(base), "delta_encoding": encoding,
                         "compression_format": "zstd", "checksum_format": checksum, **(metadata or {})},
            "weight_map": weight_map}
    if index:
        replace(folder / INDEX, json.dumps(text).encode())
    return folder


def publish_full(stream, version, state, shards=1, index=True):
    folder = version_dir(stream, version)
    folder.mkdir(parents=True, exist_ok=True)
    names, weight_map = list(state), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        write_safetensors(folder / file, {n: state[n] for n in names[shard::shards]}, {"format": "pt"})
        weight_map.update({n: file for n in names[shard::shards]})
    (folder / "config.json").write_text("{}")
    if index:
        replace(folder / INDEX, json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}).encode())
    return folder


def write_checkpoint(folder, state, shards=1):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    if shards == 1:
        return write_safetensors(folder / "model.safetensors", state, {"format": "pt"})
    names, weight_map = list(state), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        write_safetensors(folder / file, {n: state[n] for n in names[shard::shards]}, {"format": "pt"})
        weight_map.update({n: file for n in names[shard::shards]})
    replace(folder / INDEX, json.dumps({"metadata": {}, "weight_map": weight_map}).encode())


def marker(folder):
    try:
        text = (pathlib.Path(folder) / ".weight_sync" / "state.json").read_text()
    except FileNotFoundError:  # it goes while files change
        return None
    return int(json.loads(text)["version"])


def set_marker(folder, version):
    sync = pathlib.Path(folder) / ".weight_sync"
    sync.mkdir(parents=True, exist_ok=True)
    replace(sync / "state.json", json.dumps({"version": f"{version:06d}"}).encode())
