"""Decides whether bad input ends in one line and a status, and never in a file overwritten.

Cases of smoke.py.
"""
from __future__ import annotations

import os
import pathlib
import secrets
import shutil
import socket
import subprocess

import fleet
from cases import (basic, case, is_refused, one_line, ready_at, stays_ready, stays_unready,
                   tear_header)
from fleet import address_of, require


@case
def output_that_cannot_be_written(world):
    place = world.place("out")
    (place / "file").write_text("")
    with world.fleet() as f:
        one_line(f.ended(f.receiver(0, "127.0.0.1:1", out=place / "file" / "below")), 2)
        small = place / "small"
        small.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small],
                          stderr=subprocess.DEVNULL).returncode == 0:
            try:  # a full disk, where this may be tried
                one_line(f.ended(f.receiver(0, "127.0.0.1:1", out=small)), 4)
                (small / "rest").write_bytes(bytes(64 << 10))
            except OSError:  # no byte is left
                run = {"trainer.run_file": small / "run"}
                one_line(f.ended(f.trainer(receivers=0, settings=run)), 4)
            finally:
                subprocess.run(["umount", small], check=True)


@case
def a_file_that_is_cut_short_may_be_tried_again(world):
    """Its bytes are gone under whoever has it mapped, which ends with a status that is no bad input."""
    out = world.place("out")
    with world.fleet() as f:
        trainer = f.trainer(receivers=1, rounds=1)
        at = address_of(trainer)
        receiver = f.receiver(0, at, out=out)
        ready_at(receiver, world.last)
        trainer.kill()
        os.truncate(out / "model.safetensors", 0)
        f.trainer(receivers=1, rounds=1, listen=at)
        one_line(f.ended(receiver), 4)


@case
def an_output_is_one_receivers(world):
    """A second process over the same --out ends; whoever comes after the first goes on with it."""
    out = world.place("out")
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=1, rounds=1))
        first = f.receiver(0, at, out=out)
        ready_at(first, world.last)
        one_line(f.ended(f.receiver(1, at, out=out)), 3)
        require(first.running(), lambda: f"the first ended: {first.said()}")
        first.kill()
        ready_at(f.receiver(1, at, out=out), world.last)
        world.holds(out, world.last)


@case
def an_output_that_is_taken_away_is_noticed(world):
    """Who reads the file by its name would see nothing more of what is written to the mapping."""
    out = world.place("out")
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=1, rounds=1))
        r = f.receiver(0, at, out=out)
        ready_at(r, world.last)
        (out / "model.safetensors").unlink()
        one_line(f.ended(r), 4)
        ready_at(f.receiver(0, at, out=out), world.last)
        require((out / "model.safetensors").exists(), "not made anew")


@case
def an_output_is_not_the_checkpoint(world):
    place, linked = world.place("base"), world.place("linked")
    for file in pathlib.Path(world.versions.base).iterdir():
        shutil.copy(file, place / file.name)
    os.link(place / "model.safetensors", linked / "model.safetensors")
    before = (place / "model.safetensors").read_bytes()
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=0, rounds=1))
        for out in (place, linked):
            one_line(f.ended(f.receiver(0, at, checkpoint=place, out=out)), 2)
        file = place / "model.safetensors"
        one_line(f.ended(f.receiver(0, at, checkpoint=file, out=linked)), 2)
    require((place / "model.safetensors").read_bytes() == before, "the checkpoint was written to")


@case
def an_output_of_another_model_is_left_alone(world):
    """A checkpoint of other tensors, or what is no checkpoint at all, is nobody's to overwrite; a
    receiver's own file is taken up where it is whole, and made anew where it is not."""
    foreign, garbage, own = (world.place(name) for name in ("foreign", "garbage", "own"))
    shutil.copy(pathlib.Path(world.other.base) / "model.safetensors", foreign)
    (garbage / "model.safetensors").write_bytes(secrets.token_bytes(100_000))
    with world.fleet(settings={"log.level": "info"}) as f:
        at = address_of(f.trainer(receivers=0, rounds=1))
        for out in (foreign, garbage):
            file = out / "model.safetensors"
            before = file.read_bytes()
            ended = f.ended(f.receiver(0, at, out=out))
            one_line(ended, 2)
            require(str(file) in ended.errors[0] and "is not overwritten" in ended.errors[0], ended)
            require(file.read_bytes() == before, f"{file} was written to")
        file = own / "model.safetensors"
        for damage, words in ((None, None), (None, "taken up: "), (tear_header, "made anew, because ")):
            if damage:
                damage(file)
            r = f.receiver(0, at, out=own)
            ready_at(r, world.last)
            r.terminate()
            said = [line for line in r.errors if "taken up" in line or "made anew" in line]
            require(len(said) == bool(words) and all(words + str(file) in line for line in said), said)


@case
def other_checkpoint_is_refused(world):
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=1, rounds=1))
        wrong = f.receiver(1, at, checkpoint=world.other.base, name="wrong")
        ready_at(f.receiver(0, at), world.last)
        is_refused(f, at, wrong, 1, "model")


@case
def an_id_is_one_receivers(world):
    """Who calls itself by another's id under another name is told so, and ends."""
    with world.fleet() as f:
        at = address_of(f.trainer(receivers=1, rounds=1))
        first = f.receiver(0, at, name="first")
        ready_at(first, world.last)
        ended = f.ended(f.receiver(0, at, name="second"))
        one_line(ended, 5)
        require("id 0" in ended.errors[0] and "'first'" in ended.errors[0], ended)
        stays_ready(first, 0.5)


@basic
def port_taken(world):
    with socket.create_server(("127.0.0.1", 0)) as taken, world.fleet() as f:
        port = taken.getsockname()[1]
        one_line(f.ended(f.trainer(listen=f"127.0.0.1:{port}")), 2, 3)


@case
def nobody_listens(world):
    with world.fleet() as f:
        port = fleet.free_port()
        for command in ("status", "audit"):
            one_line(f.ask(command, f"127.0.0.1:{port}"), 3)
        # A receiver waits for its trainer instead.
        receiver = f.receiver(0, f"127.0.0.1:{port}")
        stays_unready(receiver, 0.5)
        f.trainer(receivers=1, rounds=1, listen=f"127.0.0.1:{port}")
        ready_at(receiver, world.last)


@case
def bad_words(world):
    with world.fleet() as f:
        for arguments in (["trainer"], ["receiver", "--id", "0"], ["status"],
                          ["status", "nonsense"], ["status", "127.0.0.1:99999"],
                          ["trainer", "--base", world.scratch / "none"],
                          ["trainer", "--base", world.versions.base, "--listen", "127.0.0.1"],
                          ["trainer", "--base", world.versions.base, "--ranks", "2", "--coordinator",
                           "127.0.0.1:1"],
                          ["receiver", "--connect", "127.0.0.1:1", "--id", "0", "--checkpoint",
                           world.scratch / "none"]):
            process = f.start("bad", "observer", 0, [str(a) for a in arguments])
            ended = f.ended(process)
            require(ended.code == 2 and ended.errors, f"{arguments}: {ended}")
