"""The words of the lab: an experiment's settings, its outcome and its pictures. Keys are those of the glossary."""

from __future__ import annotations

LAB = {
    "schema": "The version of the format; programs that read it check it first.",
    "experiment": "The name of the experiment that ran.",
    "settings": "The value of every setting of the run.",
    "sentence": "What came out, in one sentence with its numbers.",
    "columns": "The columns of the table, in their order.",
    "rows": "The rows of the table; the keys are the names of the columns.",
    "pictures": "The pictures, each with its finished tables.",
    "checks": "What must hold for the outcome to be trusted, each with what was expected and what was found.",
    "notes": "Remarks about the check or the run.",
    "name": "What it is called, for programs: the key of a column in the rows, or which picture it is.",
    "title": "What it is called, for people.",
    "unit": "What the numbers are; log10 marks logarithms, which readers are shown as the numbers themselves.",
    "help": "What the column holds, in words; may be empty.",
    "sign": "The column with the sign of the number whose logarithm this one holds; empty where all are positive.",
    "description": "What the picture shows, in words, for whoever does not see it.",
    "tables": "The finished columns that the picture is drawn from.",
    "data": "The numbers of the picture as plain rows, to be read as a table.",
    "narrow_tables": "The same columns for a narrow page; empty where the picture was asked for at one width.",
    "what": "What is claimed to hold.",
    "expected": "The number or text that ought to come out.",
    "found": "The number or text that came out.",
    "ok": "True if it holds.",
}
