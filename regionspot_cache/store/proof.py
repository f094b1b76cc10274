"""What binds the objects of a sealed part to their partitions: the checksums in its sealed markers."""

from collections.abc import Mapping

from regionspot_cache.errors import DamageError
from regionspot_cache.store.entries import recorded_sums
from regionspot_cache.store.identity import PartRecord
from regionspot_cache.store.layout import PlanShape, StackedArray
from regionspot_cache.store.manifest import Marker, SealedPart, marker_key
from regionspot_cache.store.objects import Objects
from regionspot_cache.store.records import digest


class SealedSums:
    """The recorded checksums of every object of a sealed part.

    The marker of a partition is read when one of its objects is first touched, and must be the one that the
    manifest names. Four bytes a stored record are kept.

    Args:
        objects: of the cache.
        part: its record.
        sealed: the part in the manifest.
        arrays: of the part, by name.
        shape: of the plan.
    """

    def __init__(
        self,
        objects: Objects,
        part: PartRecord,
        sealed: SealedPart,
        arrays: Mapping[str, StackedArray],
        shape: PlanShape,
    ) -> None:
        self._objects, self._part, self._sealed = objects, part, sealed
        self._arrays, self._shape = arrays, shape
        self._known: dict[int, dict[str, memoryview]] = {}  # by partition and array

    def of(self, name: str, partition: int) -> memoryview:
        """uint32 [index_entries] of the object of array `name`.

        Raises:
            DamageError: the marker is gone, damaged, or not the one that was sealed.
        """
        if partition not in self._known:
            self._known[partition] = self._read(partition)
        sums = self._known[partition].get(name)
        if sums is None:
            key = self._arrays[name].key(partition)
            raise DamageError(
                f"{key} is not listed by the marker of its partition",
                "an object that was committed",
                f"rs-cache verify {self._objects.url} --full names all damage",
            )
        return sums

    def _read(self, partition: int) -> dict[str, memoryview]:
        key = marker_key(self._part.spec.name, partition)
        try:
            data = self._objects.read(key)
        except FileNotFoundError:
            data = b""
        if digest(data) != self._sealed.markers[partition]:
            raise DamageError(
                f"{key} of {self._objects.url} is {'not the one that was sealed' if data else 'missing'}",
                "the marker that the manifest names",
                "open the cache again if an extraction changed it meanwhile; else rs-cache verify "
                f"{self._objects.url} --full names all damage",
            )
        marker = Marker.from_bytes(data, key, self._shape)
        if not marker.is_of(self._part, partition):
            raise DamageError(
                f"{key} is the marker of partition {marker.partition} of another {marker.part} part",
                f"that of partition {partition} of the {self._part.spec.name} part",
                f"rs-cache verify {self._objects.url} --full names all damage",
            )
        listed = {name: a for name, a in self._arrays.items() if a.key(partition) in marker.objects}
        return {name: recorded_sums(marker.objects, a)(partition) for name, a in listed.items()}
