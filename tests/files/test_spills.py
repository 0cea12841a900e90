"""Keys in sorted files against a dictionary, components against a walk over the graph."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2.files.spills import Spills, components, shared, without, write_spill

# Keys from every range, and a few that come often.
KEYS = st.one_of(st.sampled_from([0, 1, 1 << 63, (1 << 64) - 1]), st.integers(0, (1 << 64) - 1))
quick = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(st.lists(st.lists(st.tuples(KEYS, KEYS), max_size=12), min_size=1, max_size=4), st.integers(1, 5))
def test_items_that_share_a_key_are_those_of_a_dictionary(tmp_path_factory, items, ranges):
    directory = tmp_path_factory.mktemp("spills")
    directories, starts = [], [0]
    for i, keys in enumerate(items):
        path = directory / str(i)
        path.mkdir()
        write_spill(path, np.array(keys, np.uint64).reshape(-1, 2), np.arange(len(keys), dtype=np.uint32))
        directories.append(str(path))
        starts.append(starts[-1] + len(keys))
    spills = Spills(directories, starts)
    for band in range(2):
        by_key = defaultdict(list)
        for number, keys in enumerate(keys for part in items for keys in part):
            by_key[keys[band]].append(number)
        expected = {(n, same[0]) for same in by_key.values() if len(same) > 1 for n in same}
        found = [shared(*spills.keys_in(band, i, ranges)) for i in range(ranges)]
        pairs = [pair for members, firsts in found for pair in zip(members.tolist(), firsts.tolist(), strict=True)]
        assert len(pairs) == len(set(pairs)) and set(pairs) == expected


@quick
@given(st.lists(st.lists(st.tuples(st.integers(0, 24), st.integers(0, 24)), max_size=15), max_size=3))
def test_components_are_those_of_a_walk(tmp_path_factory, files):
    directory = tmp_path_factory.mktemp("edges")
    near, paths = defaultdict(set), []
    for i, edges in enumerate(files):
        paths.append(str(directory / f"{i}.npy"))
        np.save(paths[-1], np.array(edges, np.int64).reshape(-1, 2).T)
        for a, b in edges:
            near[a].add(b)
            near[b].add(a)
    least = {}
    for start in range(25):
        todo = [start]
        while todo:
            item = todo.pop()
            if item not in least:
                least[item] = start
                todo += near[item]
    assert components(paths, 25).tolist() == [least[item] for item in range(25)]


@given(st.lists(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_what_is_dropped_is_left_out(numbers, dropped):
    left = without(np.array(numbers, np.int64), np.array(sorted(dropped), np.int64))
    assert left.tolist() == [number not in dropped for number in numbers]
