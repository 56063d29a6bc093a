"""A recipe whose stages are run alone, so that each can be killed and compared with the run that was left alone."""

import shutil

import compare
import stages

TRAINERS = {
    "encoder": "output/Audio_to_Image/log/trial_speech_encoder",
    "generator": "output/StackGAN_v2/trial_speech_encoder",
}
# What comes in several versions during a stage, each of them whole.
SEVERAL = (*TRAINERS.values(), "data/birds/.downloaded.json")
UNFINISHED = '{"made_by": "direct-speech-to-image", "order": "unfinished"}'  # what a feature file is described by while it is written


class Trial:
    """The uninterrupted run of every stage, made when first asked for: `before`, `after`, `changes`, `seconds`."""

    def __init__(self, folder, fork_server, listed=stages.stages):
        """listed(place): the stages in order, for everything below `place`."""
        self.folder, self.place, self.fork_server = folder, folder / "it's a place", fork_server
        self.stages = {stage.name: stage for stage in listed(self.place)}
        self.ended, self.after, self.seen, self.sizes = {}, {}, {}, {}
        (self.place / "output/trial").mkdir(parents=True)
        (self.place / "output/trial/stages.jsonl").write_text('{"stage": 0, "name": "data", "seconds": 1.0}\n')

    def run(self, name, jobs=1, **kill):
        words = self.stages[name].words
        return self.fork_server.run([*words, "--jobs", jobs] if jobs > 1 else words, self.place, **kill)

    def saved(self, name):
        return self.folder / f"before {name}"

    def make(self, wanted):
        """Run the stages up to `wanted` that have not been run."""
        for name in self.stages:
            if name not in self.ended:
                if self.ended:
                    stages.restore(self.folder / "now", self.place)
                if name == "speech":
                    stages.few_captions(self.place / "data/toybirds")
                elif name == "encoder":
                    stages.small_features(self.place / "data/toybirds")
                shutil.copytree(self.place, self.saved(name), symlinks=True)
                self.ended[name] = self.run(name)
                assert self.ended[name].status == 0, self.ended[name].output
                assert not compare.temporaries(self.place) and not self.ended[name].left
                self.after[name] = compare.contents(self.place)
                self.sizes[name] = self.new_sizes(name)
                if name in TRAINERS:
                    self.seen[name] = compare.scalars(self.place / TRAINERS[name])
                    for path in (self.place / TRAINERS[name]).glob("resume*.pth"):
                        path.unlink()  # large, and of no use to later stages
                stages.restore(self.place, self.folder / "now")
            if name == wanted:
                return

    def new_sizes(self, name) -> list[int]:
        """Bytes of the files that a stage has made."""
        saved = self.saved(name)
        return sorted(
            path.stat().st_size
            for path in self.place.rglob("*")
            if path.is_file() and not path.is_symlink() and not (saved / path.relative_to(self.place)).exists()
        )

    def survive(self, name, **kill) -> bool:
        """Kill the stage, look at what is there, let it finish, compare. False if it ended before it was killed.

        kill: as for `ForkServer.run`, and the number of `jobs` of the run that is killed.
        """
        stages.restore(self.saved(name), self.place)
        before = compare.contents(self.place)
        killed = self.run(name, **kill)
        told = f"{name} killed by {kill}"
        assert killed.status in (0, 137, 153), (told, killed.output)
        assert not killed.left, f"{told}: {len(killed.left)} processes outlived it"
        for file, held in compare.contents(self.place).items():
            if not file.startswith(SEVERAL):
                assert held in (before.get(file), self.after[name].get(file), UNFINISHED), (
                    f"{told}: {file} is of neither run"
                )
        again = self.run(name)
        assert again.status == 0, (told, again.output)
        self.compare(name, told)
        return killed.status != 0

    def compare(self, name, told):
        after = compare.contents(self.place)
        assert after.keys() == self.after[name].keys(), (told, after.keys() ^ self.after[name].keys())
        different = [file for file in after if after[file] != self.after[name][file]]
        assert not different, f"{told}: {', '.join(different)} differ from those of a run that was left alone"
        left = compare.temporaries(self.place)
        assert not left, f"{told}: {', '.join(left)} stay for ever"
        if name in TRAINERS:
            assert compare.scalars(self.place / TRAINERS[name]) == self.seen[name], f"{told}: TensorBoard"
