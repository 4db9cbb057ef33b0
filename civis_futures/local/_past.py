"""The tables as they were: SQL for lists that lag behind. It reads and changes nothing itself."""

from __future__ import annotations

# Tables of these names stand in front of the real ones, which are still there as main.*. A run's
# moments tell what its state was. What a script's own fields were is not known any more.
PAST = """
WITH runs AS (
  SELECT id, script_id, cancel_requested, created_at, error, max_memory, max_cpu,
    CASE WHEN finished_at <= {then} THEN state WHEN started_at <= {then} THEN 'running'
      ELSE 'queued' END AS state,
    CASE WHEN finished_at <= {then} THEN updated_at WHEN started_at <= {then} THEN started_at
      ELSE created_at END AS updated_at,
    CASE WHEN started_at <= {then} THEN started_at END AS started_at,
    CASE WHEN finished_at <= {then} THEN finished_at END AS finished_at
  FROM main.runs WHERE created_at <= {then}),
scripts AS (
  SELECT id, kind, name, created_at, MIN(updated_at, {then}) AS updated_at, hidden, archived,
    parent_id, template_id, published_as, last_success_id, doc,
    (SELECT MAX(runs.id) FROM main.runs AS runs
      WHERE runs.script_id = ours.id AND runs.created_at <= {then}) AS last_run_id
  FROM main.scripts AS ours WHERE created_at <= {then}),
outputs AS (SELECT * FROM main.outputs WHERE created_at <= {then}),
templates AS (SELECT * FROM main.templates WHERE created_at <= {then})
"""


def as_of(then: float) -> str:
    """Return what goes before a SELECT so that it sees the tables as they were then."""
    return PAST.format(then=repr(float(then)))
