"""D_corpus from the user's files: folders of texts, and JSONL of worked problems."""
from __future__ import annotations

from pathlib import Path

from ap.files import UserError, numbered_records, read_text
from ap.world.acquire import Document


def read_corpus(path: Path) -> list[Document]:
    """D_corpus: a JSONL of {question, answer[, solution]}, or a folder of such, .md and .txt files. UserError."""
    path = Path(path)
    return _read_folder(path) if path.is_dir() else _read_records(path)


def _read_folder(folder: Path) -> list[Document]:
    documents = []
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        if file.suffix.lower() == ".jsonl":
            documents += _read_records(file)
        elif file.suffix.lower() in (".md", ".txt"):
            documents.append(Document(read_text(file), str(file)))
    documents = [document for document in documents if document.text.strip()]
    if not documents:
        raise UserError(f"{folder}: no text in .md, .txt or .jsonl files in this folder; give another corpus")
    return documents


def _read_records(path: Path) -> list[Document]:
    documents = []
    for number, record in numbered_records(path):
        where = f"{path}, line {number}"
        for name in ("question", "answer", "solution"):
            value = record.get(name, "" if name == "solution" else None)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and name == "answer":
                record[name] = value = str(value)
            if value is None or not isinstance(value, str) or (name != "solution" and not value.strip()):
                raise UserError(f"{where}: field `{name}` must be text; each line needs a question and an answer")
        documents.append(Document.from_record(record, where))
    if not documents:
        raise UserError(f"{path}: no records in this corpus file; give another corpus")
    return documents
