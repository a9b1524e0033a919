"""Models and data sets by their id on the Hugging Face hub, OWNER/NAME or OWNER/NAME@REVISION, by the hub's own client.

    is_id       is this the id of a model on the hub, and no folder here?
    fetch       fetches a model, as far as it is not here yet, and gives its commit
    folder_of   the folder of a model: its path, or where the client keeps the recorded commit; asks no network
    snapshot    fetches some files of a repository, or says in one sentence why it cannot

*Choices*: a folder that exists wins over an id of the same name. Only safetensors are fetched, of a repository's first
level, and what config, tokenizer and chat template need. The weights come last: where all of them are here, the rest is,
too, also after a kill.
"""
from __future__ import annotations

import re
from pathlib import Path
from typing import Sequence

from ap.files import UserError, first_line, read_json

ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
COMMIT = re.compile(r"[0-9a-f]{40}")
WORDS = ["config.json", "generation_config.json", "tokenizer*", "chat_template*", "special_tokens_map.json",
         "added_tokens.json", "vocab*", "merges.txt", "*.tiktoken", "spiece.model", "sentencepiece*.model",
         "model.safetensors.index.json"]
WEIGHTS = ["model.safetensors", "model-*.safetensors"]


def is_id(name: str) -> bool:
    """Is it written like an id of the hub, and is there no file or folder of that name?"""
    return bool(ID.fullmatch(name)) and not Path(name).exists()


def commits(revisions: str) -> dict[str, str]:
    """The setting `revisions`, "ID=COMMIT ID=COMMIT ...", as {id: commit}. UserError for anything else."""
    pairs = [pair.rpartition("=")[::2] for pair in revisions.split()]
    for name, commit in pairs:
        if not (ID.fullmatch(name) and COMMIT.fullmatch(commit)):
            raise UserError(f"--revisions {revisions!r}: must be OWNER/NAME=COMMIT, with 40 hexadecimal digits, and "
                            "blanks between several; leave it out, and the run writes it itself.")
    return dict(pairs)


def fetch(name: str, where: str, commit: str = "") -> str:
    """The commit of a model of the hub, all files of which are now here. where: names it in messages, as "--model".

    commit: the one that was recorded; if it is here, nothing is asked of the network. UserError, in one sentence, for
    an id that does not exist, a gated model, no network, and a repository without weights that we can load.
    """
    repository, _, revision = name.partition("@")
    if commit and whole_snapshot(repository, commit):
        return commit
    where = f"{where} {name}"
    folder = snapshot(repository, commit or revision, WORDS, where)
    if not (folder / "config.json").is_file():
        raise UserError(f"{where}: holds no config.json on the hub, so it is no model that transformers can load.")
    snapshot(repository, folder.name, WEIGHTS, where)
    if not _whole(folder):
        raise UserError(f"{where}: has no weights model*.safetensors on the hub, or not all of them are here; take a "
                        "model that has safetensors, or make the network available.")
    return folder.name


def folder_of(name: str, revisions: str = "") -> str:
    """The local folder of a model: `name`, if it is no id, or else that of the commit in the setting `revisions`.

    UserError for an id whose commit is not recorded, or not here any more.
    """
    if not is_id(name):
        return name
    commit = commits(revisions).get(name, "")
    folder = whole_snapshot(name.partition("@")[0], commit) if commit else None
    if folder is None:
        raise UserError(f"{name}: is no folder, and no commit of a model of this id is here; run the script from its "
                        "start, which fetches it from the hub.")
    return str(folder)


def shown(name: str, revisions: str = "") -> str:
    """How a model is named for people: the last part of a path, or an id with its commit."""
    commit = commits(revisions).get(name, "")
    return f"{name.partition('@')[0]} at commit {commit}" if commit else Path(name).name


def whole_snapshot(repository: str, commit: str) -> Path | None:
    """The folder of a commit in the client's cache; None if it, or some of its weights, are not here."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json", revision=commit)
    folder = Path(found).parent if isinstance(found, str) else None
    return folder if folder is not None and _whole(folder) else None


def _whole(folder: Path) -> bool:
    index = folder / "model.safetensors.index.json"
    names = set(read_json(index)["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    return all((folder / name).is_file() for name in names)


def snapshot(repository: str, revision: str, patterns: Sequence[str], where: str, kind: str = "model") -> Path:
    """The folder with those files of a repository whose names match, of a revision ("": main), once they are here.

    where: what the user has named, for messages. kind: "model" or "dataset". Without a network, a revision that is
    here already is taken. UserError, in one sentence, if the files cannot be had.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise UserError(f"{where}: needs huggingface_hub; pip install it, or give a local file or folder.") from None
    data = "file" if kind == "dataset" else "folder"
    deeper = None if kind == "dataset" else ["*/*"]
    try:
        return Path(huggingface_hub.snapshot_download(
            repository, repo_type=kind, revision=revision or None, allow_patterns=list(patterns),
            ignore_patterns=deeper))
    except errors.GatedRepoError as error:
        raise UserError(f"{where}: {repository} is gated; accept its terms on its page of the hub, log in with "
                        f"`hf auth login`, and run this again, or give a local {data}.") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{where}: there is no such {data} here, and no {kind} {repository} on the hub, or it is "
                        f"private; correct the path or the id, or log in with `hf auth login`.") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{where}: {repository} has no revision {revision} on the hub; give one of its branches, tags "
                        "or commits.") from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(f"{where}: there is no such {data} here, and the hub cannot be reached to fetch it "
                        f"({_said(error.__cause__ or error)}); correct the path, or run this once with a "
                        "network.") from error
    except Exception as error:  # of the client, of its HTTP library, or of the disk
        raise UserError(f"{where}: cannot fetch {repository} ({_said(error)}); log in where it is gated, or give a "
                        f"local {data}.") from error


def _said(error: BaseException) -> str:
    return first_line(error).strip().rstrip(".:")[:150]
