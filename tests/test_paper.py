"""The paper's rows, the tables' experiments and their labels are one and the same."""

from itertools import product

import pytest
from hydra import compose, initialize_config_dir

import mtmamba
from mtmamba.paper import DEFAULTS, TABLES, network_of
from mtmamba.shipped import config_dir

EXPERIMENTS = {"1, NYUDv2": "table1_nyud", "1, PASCAL-Context": "table1_pascal"}


def composed(table):
    """The configurations that a table's experiment runs, in the order of its sweep."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        params = compose("train", [f"experiment={table}"], return_hydra_config=True).hydra.sweeper.params
    swept = [[f"{key}={value}" for value in values.split(",")] for key, values in params.items()]
    return [mtmamba.load_config([f"experiment={table}", *row]) for row in product(*swept)]


@pytest.mark.parametrize("published", TABLES, ids=lambda table: table.number)
def test_a_tables_experiment_runs_the_papers_rows_under_their_names(published):
    expected = []
    for row in published.rows:
        for network in map(network_of, row.networks):
            expected.append((f"{row.name} ({network.tasks[0]})" if len(row.networks) > 1 else row.name, network))
    found = [
        (cfg.label, (*(cfg.choices[group] for group in DEFAULTS), tuple(cfg.tasks)))
        for cfg in composed(EXPERIMENTS.get(published.number, f"table{published.number}"))
    ]
    assert found == expected


def test_table_1_has_every_decoder_once_but_for_variants():
    """ATRC without its neck costs twice what MTMamba does on Swin-Large; the others are the rows of Table 2."""
    files = {path.stem for path in (config_dir() / "decoder").glob("*.yaml")}
    for table in TABLES[:2]:
        found = [network_of(network).decoder for row in table.rows for network in row.networks]
        assert sorted(found) == sorted(files - {"atrc_wide", "stm1", "stm2", "stm3", "swin2"})


def test_every_row_file_is_swept_by_its_table():
    files = {path.stem for path in (config_dir() / "row").glob("*.yaml")}
    swept = {cfg.choices.row for cfg in composed("table2")}
    assert files == swept
