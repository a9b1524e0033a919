"""D_corpus from the user's files: folders of texts, and JSONL of worked problems."""
from __future__ import annotations

from pathlib import Path
from typing import Mapping

from ap.files import UserError, read_text
from ap.tools.evaluation import place, records
from ap.tools.layouts import ANSWER_FIELDS, SOLUTION_FIELDS, problem_of
from ap.world.acquire import Document


def read_corpus(path: Path) -> list[Document]:
    """D_corpus: a JSONL of {question, answer[, solution]}, in any layout of layouts.py, or a folder of such and of .md
    and .txt files. UserError."""
    path = Path(path)
    return _read_folder(path) if path.is_dir() else _read_records(path)


def _read_folder(folder: Path) -> list[Document]:
    documents = []
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        if file.name.lower().endswith((".jsonl", ".jsonl.gz")):
            documents += _read_records(file)
        elif file.suffix.lower() in (".md", ".txt"):
            documents.append(Document(read_text(file), str(file)))
    documents = [document for document in documents if document.text.strip()]
    if not documents:
        raise UserError(f"{folder}: no text in .md, .txt or .jsonl files in this folder; give another corpus")
    return documents


def _read_records(path: Path) -> list[Document]:
    """Worked problems, in any layout of layouts.py; the solution is that of a field `solution`, or the text that ends
    in the answer."""
    documents = []
    for number, record in records(path):
        where = place(path, number)
        if name := _fault(record):
            raise UserError(f"{where}: field `{name}` must be text; each line needs a question and an answer")
        problem = problem_of(record, where)
        if "tests" in problem:
            problem["answer"] = str(record.get("canonical_solution") or record.get("code") or "")
        solution = record.get("solution") or record.get("Solution") or record.get("rationale") or ""
        whole = str(record.get("answer", ""))
        if not solution and "choices" not in problem and len(whole.split()) > len(problem["answer"].split()) + 3:
            solution = whole  # as GSM8K has it
        solution = solution[0] if isinstance(solution, list) else solution  # OlympiadBench has a list of them
        documents.append(Document.from_record(problem | {"solution": solution}, where))
    if not documents:
        raise UserError(f"{path}: no records in this corpus file; give another corpus")
    return documents


def _fault(record: Mapping) -> str | None:
    """Which of the usual fields is there and holds no text, or is not there, of a record with a question."""
    if "question" in record and not (isinstance(record["question"], str) and record["question"].strip()):
        return "question"
    if "question" in record and not any(name in record for name in (*ANSWER_FIELDS, *SOLUTION_FIELDS)):
        return "answer"
    if isinstance(record.get("answer"), bool):
        return "answer"
    solution = record.get("solution") or ""
    texts = solution if isinstance(solution, list) else [solution]
    return None if all(isinstance(text, str) for text in texts) else "solution"
