"""Toybirds: a made-up CUB-200-2011, drawn and described by rules, so that the whole method can be tried in minutes.

`species` invents kinds of bird, `pose` gives one bird its outlines, `scene` and `drawing` draw it, `captions`
describes it, and `dataset` writes the files. Everything random follows from (seed, class, image), so a part of the set
can be made again alone and by any number of processes.
"""
