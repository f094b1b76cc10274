"""The table of regions, read back by what people read Parquet with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regionspot_cache.errors import InputError
from regionspot_cache.reporting.regions_table import region_table, table_metadata, write_regions
from tests.reporting.regions import BOXES, CLASSES, dataset_in, regions_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    return region_table(regions_of(dataset_in(tmp_path)), {"map": "pca", "seed": 0})


def test_columns_are_those_of_the_document(table: pa.Table) -> None:
    section = DOCUMENT.read_text().partition("| column |")[2].partition("\n\n")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    documented = [name for row in rows for name in row[1].replace("`", "").replace(" ", "").split(",")]
    assert documented == table.column_names


def test_pandas_reads_what_was_written(table: pa.Table, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    write_regions(table, tmp_path / "new" / "regions.parquet")
    frame = pandas.read_parquet(tmp_path / "new" / "regions.parquet")
    assert frame[["x0", "y0", "x1", "y1"]].to_numpy().tolist() == [list(b) for image in BOXES for b in image]
    assert frame["image_id"].tolist() == [10, 10, 10, 11, 12, 12]
    assert frame["box_id"].tolist() == list(range(100, 106))
    assert frame["class"].tolist() == [CLASSES[i % 3] for i in range(6)]
    assert [names[0] for names in frame["top_names"]] == frame["predicted"].tolist()
    assert np.allclose([s[0] - s[1] for s in frame["top_scores"]], frame["margin"])
    assert np.stack(frame["embedding"]).shape == (6, 6)
    for row, found in enumerate(frame["neighbours"]):
        assert len(found["ids"]) == len(found["distances"]) == 4
        assert row not in found["ids"]
    assert np.allclose([n["distances"].mean() for n in frame["neighbours"]], frame["novelty"])


def test_the_file_says_what_it_was_made_from(table: pa.Table, tmp_path: Path) -> None:
    write_regions(table, tmp_path / "r.parquet")
    found = pq.read_table(tmp_path / "r.parquet")
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 6)
    assert table_metadata(found) == {"map": "pca", "seed": 0}
    with pytest.raises(InputError, match="does not say"):
        table_metadata(found.replace_schema_metadata(None))


def test_what_is_not_known_is_null(tmp_path: Path) -> None:
    regions = regions_of(dataset_in(tmp_path), named=False)
    table = region_table(regions, {})
    for name in ("class", "predicted", "score", "margin", "top_names", "top_scores"):
        assert table[name].null_count == len(table) == 6
    dataset = replace(regions.dataset, image_ids=["a", 11, "c"])
    mixed = region_table(replace(regions, dataset=dataset), {})
    assert mixed["image_id"].to_pylist() == ["a", "a", "a", "11", "c", "c"]


def test_lance_searches_the_embeddings(table: pa.Table, tmp_path: Path) -> None:
    lance = pytest.importorskip("lance")
    written = lance.write_dataset(table, tmp_path / "regions.lance")
    query = np.asarray(table["embedding"][2].as_py(), np.float32)
    found = written.to_table(nearest={"column": "embedding", "q": query, "k": 2})["box_id"].to_pylist()
    neighbours = table["neighbours"][2].as_py()["ids"]
    assert found == [102, 100 + neighbours[0]]
