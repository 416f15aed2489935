"""Find the files of an import."""

from __future__ import annotations

from pathlib import Path

from eds.base.console import err
from eds.base.errors import UserError
from eds.book.csv_import.dialect import squeeze
from eds.book.csv_import.mapping import MAPPING_FILE, BookMapping, load_mapping
from eds.book.csv_import.schema import TABLES, Table

EXTENSIONS = (".csv", ".tsv", ".txt")


def find_mapping(directory: Path, mapping_file: Path | None) -> BookMapping:
    """Return the mapping file that was named, or the one in the directory; an empty mapping when there is none."""
    path = mapping_file or directory / MAPPING_FILE
    if mapping_file is None and not path.is_file():
        return BookMapping()
    try:
        mapping = load_mapping(path)
    except OSError as problem:
        raise UserError(f"The mapping file {path} cannot be read: {problem.strerror}.") from problem
    err.print(f"mapping: {path}", markup=False)
    return mapping


def find_files(directory: Path, *, sync: bool, mapping: BookMapping | None = None) -> dict[str, Path]:
    """Return the files to import, by the name of their table. Raises UserError when they are not there."""
    given, mapping = mapping, mapping or BookMapping()
    files = [table.file for table in TABLES if not table.is_optional]
    wanted = f"{', '.join(files[:-1])} and {files[-1]}"
    if not directory.exists():
        raise UserError(f"There is no directory {directory}.\nGive the one that holds {wanted}: make import DIR=path")
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory.\nGive the one that holds {wanted}: make import DIR=path")
    try:
        present = sorted(directory.iterdir())
    except OSError as problem:
        raise UserError(f"The directory {directory} cannot be read: {problem.strerror}.") from problem

    paths: dict[str, Path] = {}
    missing: list[str] = []
    for table in TABLES:
        named = mapping.table(table.name).file
        path = directory / named if named else _file_of(table, present)
        if path is None and table.name in mapping.tables:
            raise UserError(f"The mapping file describes {table.name}; {table.file} is not in {directory}.")
        if path is None and table.is_optional:
            continue
        if path is None:
            missing.append(table.file)
        elif not path.exists():
            if not named:
                raise UserError(f"{path} leads to {path.readlink()}, which is not there. Put the file in its place.")
            raise UserError(f"The mapping file names {named} for {table.name}; it is not in {directory}.")
        elif not path.is_file():
            raise UserError(f"{path} is not a file.")
        else:
            paths[table.name] = path
    others = [path.name for path in present if path.suffix.lower() in EXTENSIONS and path not in paths.values()]
    aside = f"\nOther CSV files there: {', '.join(others[:10])}" if others else ""
    workbooks = [path.name for path in present if path.suffix.lower() in (".xlsx", ".xls", ".ods", ".xlsm")]
    if workbooks and not paths:
        aside += f"\nOf a workbook ({', '.join(workbooks[:10])}), save each sheet as “CSV UTF-8”."
    archives = [path.name for path in present if path.suffix.lower() in (".zip", ".gz", ".7z", ".rar", ".bz2", ".xz")]
    if archives and not paths:
        aside += f"\nUnpack {', '.join(archives[:10])} first: archives are not read."
    if not paths:
        if given is not None and not given.tables:
            aside += (
                "\nThe mapping file names no file either: remove the # in front of its lines that say which is which."
            )
        raise UserError(f"{directory} holds none of the files {wanted}.{aside}")
    if sync and missing:
        raise UserError(
            f"SYNC=1 needs all four files; not in {directory}: {', '.join(missing)}.{aside}\n"
            "A sync deletes the rows that the files do not hold, so without its file a table would be emptied.\n"
            "For a table that is to be empty, give a file with the header line alone."
        )
    if others:
        err.print(f"not read: {', '.join(others[:10])} (the import reads {wanted})", markup=False)
    if workbooks:
        err.print(f"not read: {', '.join(workbooks[:10])} (save each sheet as “CSV UTF-8”)", markup=False)
    return paths


def _file_of(table: Table, present: list[Path]) -> Path | None:
    """Return the file of a table, whatever the case of its name; None when there is none."""
    found = [
        path for path in present if path.suffix.lower() in EXTENSIONS and squeeze(path.stem) == squeeze(table.name)
    ]
    if len(found) > 1:
        raise UserError(
            f"Expected one file for {table.name}, found {', '.join(path.name for path in found)}. "
            "Take one of them away, or name the right one under file: in a mapping file."
        )
    return next(iter(found), None)
