"""Writing beside the training: one job at a time, whose error comes out at the next one or at the end."""

from concurrent.futures import ThreadPoolExecutor


class Background:
    """beside: jobs run in a thread of their own, else where they are given. A process ends only after its job."""

    def __init__(self, beside: bool):
        self._threads = ThreadPoolExecutor(1) if beside else None
        self._job = None

    def run(self, job, *arguments) -> None:
        """Wait for the job before, then start this one. The arguments may not change while it runs."""
        self.wait()
        if self._threads:
            self._job = self._threads.submit(job, *arguments)
        else:
            job(*arguments)

    def wait(self) -> None:
        """Return when nothing is being written any more; the error of the last job is raised here."""
        job, self._job = self._job, None
        if job:
            job.result()
