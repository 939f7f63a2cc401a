"""A server with the part of BigQuery's API that its client library uses for load jobs from Cloud Storage.

It answers a known job id with 409. A job can be slow, can fail, and can run although its submission got a 503.
"""

import contextlib
import io
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow.parquet as pq

from consumer.forgotten import ID_FIELDS

Row = dict[str, Any]
_TABLE = re.compile(r"/bigquery/v2/projects/([^/]+)/datasets/([^/]+)/tables/([^/?]+)")
_JOBS = re.compile(r"/bigquery/v2/projects/([^/]+)/jobs(?:/([^/?]+))?(?:\?.*)?")


class BigQueryServer:
    """A server with one table, which has any name except `missing`."""

    def __init__(self, read: Callable[[str], bytes]) -> None:
        """`read` returns the content of a gs:// URL."""
        self.read = read
        self.rows: list[Row] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.submissions = 0
        self.asked: Counter[str] = Counter()
        self.asked_until_done = 0
        """The number of polls that see a job RUNNING before it is done."""
        self.fails = 0
        """The next N jobs fail."""
        self.lost_answers = 0
        """The next N submissions get a 503, although the job runs."""
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """Run the server; yields its URL."""
        bigquery = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with bigquery._lock:
                    self.answer(*bigquery.get(self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with bigquery._lock:
                    said = json.loads(body)
                    self.answer(
                        *(
                            bigquery.query(said)
                            if self.path.split("?")[0].endswith("/queries")
                            else bigquery.submit(said)
                        )
                    )

            def answer(self, status: int, said: dict[str, Any]) -> None:
                content = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        if table := _TABLE.match(path):
            project, dataset, name = table.groups()
            if name == "missing":
                return _error(404, "notFound", f"Not found: Table {name}")
            reference = {"projectId": project, "datasetId": dataset, "tableId": name}
            return 200, {"tableReference": reference, "location": "EU", "schema": {"fields": []}}
        match = _JOBS.fullmatch(path)
        job = self.jobs.get(match[2]) if match else None
        if job is None or "location=EU" not in path:
            return _error(404, "notFound", f"Not found: Job {path}")
        self.asked[job["id"]] += 1
        if self.asked[job["id"]] <= self.asked_until_done:
            return 200, {**job, "status": {"state": "RUNNING"}}
        return 200, job

    def query(self, said: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Answer the two supported queries: the ids of the events received on a day, and the deletion of customers."""
        if said["query"].startswith("DELETE"):
            return self.delete(said["queryParameters"])
        given = {one["name"]: one["parameterValue"]["value"] for one in said["queryParameters"]}
        first, last = (_moment(given[name]) for name in ("first", "last"))
        ids = [
            row["event_id"]
            for row in self.rows
            if row["received_at"].date().isoformat() == given["day"] and first <= row["timestamp"] <= last
        ]
        return 200, {
            "jobComplete": True,
            "jobReference": {"projectId": "project", "jobId": "query", "location": "EU"},
            "schema": {"fields": [{"name": "event_id", "type": "STRING", "mode": "NULLABLE"}]},
            "rows": [{"f": [{"v": one}]} for one in ids],
            "totalRows": str(len(ids)),
        }

    def delete(self, parameters: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        given = {one["name"]: one["parameterValue"] for one in parameters}
        ids = {one["value"] for one in given["ids"]["arrayValues"]}
        before = _moment(given["before"]["value"])

        def goes(row: Row) -> bool:
            return row["received_at"] < before and not ids.isdisjoint(row[name] for name in ID_FIELDS)

        left = [row for row in self.rows if not goes(row)]
        deleted, self.rows = len(self.rows) - len(left), left
        return 200, {
            "jobComplete": True,
            "jobReference": {"projectId": "project", "jobId": "delete", "location": "EU"},
            "numDmlAffectedRows": str(deleted),
        }

    def submit(self, said: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.submissions += 1
        job_id = said["jobReference"]["jobId"]
        if job_id in self.jobs:
            return _error(409, "duplicate", f"Already Exists: Job {job_id}")
        job = self.jobs[job_id] = {**said, "id": job_id, "status": {"state": "DONE"}}
        if self.fails:
            self.fails -= 1
            wrong = {"reason": "quotaExceeded", "message": "Quota exceeded: too many partitions"}
            job["status"] |= {"errorResult": wrong, "errors": [wrong]}
        else:
            load = said["configuration"]["load"]
            assert load["writeDisposition"] == "WRITE_APPEND"
            assert load["createDisposition"] == "CREATE_NEVER"
            rows = [
                row
                for url in load["sourceUris"]
                for row in pq.ParquetFile(io.BytesIO(self.read(url))).read().to_pylist()
            ]
            self.rows += rows
            job["statistics"] = {"load": {"outputRows": str(len(rows)), "inputFiles": str(len(load["sourceUris"]))}}
        if self.lost_answers:
            self.lost_answers -= 1
            return _error(503, "backendError", "try again")
        if self.asked_until_done:
            return 200, {**job, "status": {"state": "RUNNING"}}
        return 200, job


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace(" ", "T"))


def _error(status: int, reason: str, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}}
