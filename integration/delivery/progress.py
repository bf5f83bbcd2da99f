"""How far the latest scans have come, counted: what someone who looks every second may ask without being a burden."""

from __future__ import annotations

from integration.delivery.database import Database

_LATEST = "(SELECT job FROM jobs WHERE :job IS NULL OR job = :job ORDER BY opened_at DESC LIMIT :limit)"


class Progress:
    """Counts over a journal.

    Parameters
    ----------
    database
        The journal's file.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    def stamp(self) -> tuple[int, int]:
        """Return what differs once anything in the journal has changed, by whatever process."""
        return self._db.stamp()

    def deliveries(self, limit: int, job: str | None = None) -> dict[str, dict[str, dict[str, int]]]:
        """Return by job, destination and state the images of the latest `limit` jobs, or of one."""
        found: dict[str, dict[str, dict[str, int]]] = {}
        for r in self._db.rows(
            f"""SELECT i.job, d.destination, d.state, count(*) AS n FROM images i JOIN deliveries d
                ON d.sop_uid = i.sop_uid WHERE i.job IN {_LATEST} GROUP BY i.job, d.destination, d.state""",
            {"limit": limit, "job": job},
        ):
            found.setdefault(r["job"], {}).setdefault(r["destination"], {})[r["state"]] = r["n"]
        return found

    def images(self, limit: int, job: str | None = None) -> dict[str, int]:
        """Return by job the number of DICOM objects made, of the latest `limit` jobs, or of one."""
        sql = f"SELECT job, count(*) AS n FROM images WHERE job IN {_LATEST} GROUP BY job"
        return {r["job"]: r["n"] for r in self._db.rows(sql, {"limit": limit, "job": job})}

    def answers(self, limit: int, job: str | None = None) -> dict[str, dict[str, object]]:
        """Return by job the answer that counts, of the latest `limit` jobs, or of one."""
        sql = f"""SELECT job, word, who, why, at FROM answers WHERE id IN
            (SELECT max(id) FROM answers WHERE job IN {_LATEST} GROUP BY job)"""
        return {r["job"]: dict(r) for r in self._db.rows(sql, {"limit": limit, "job": job})}

    def states(self) -> dict[str, int]:
        """Return the number of all jobs by state."""
        return {r["state"]: r["n"] for r in self._db.rows("SELECT state, count(*) AS n FROM jobs GROUP BY state")}
