"""Taint: versions that were trained on forgotten lessons, and versions that started from them."""

from __future__ import annotations

from academy.genealogy.taint import taint
from academy.genealogy.versions import INIT_ADAPTER
from tests.registry import House


def test_version_started_from_a_tainted_adapter_is_tainted(house: House) -> None:
    one, two, three, other = (
        house.train(value, dataset=name * 64) for value, name in ((1.0, "a"), (2.0, "b"), (3.0, "c"), (4.0, "d"))
    )
    client, family = house.versions.client, house.versions.family
    for version, first in ((two, one), (three, two)):
        client.set_model_version_tag(family, version.version, INIT_ADAPTER, first.adapter)
    tainted_versions = taint(client, ["a" * 64])
    assert {tainted.version for tainted in tainted_versions} == {one.version, two.version, three.version}
    assert house.versions.get(three.version).tainted
    assert not house.versions.get(other.version).tainted
    assert {tainted.version for tainted in taint(client, ["c" * 64])} == {three.version}


def test_version_started_from_a_deleted_version_s_adapter_is_tainted(house: House) -> None:
    version = house.train(9.0, dataset="5" * 64)
    house.versions.client.set_model_version_tag(house.versions.family, version.version, INIT_ADAPTER, "7" * 64)
    assert taint(house.versions.client, ["6" * 64]) == []
    assert [tainted.version for tainted in taint(house.versions.client, ["6" * 64], ["7" * 64])] == [version.version]
