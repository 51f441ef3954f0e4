"""torch_geometric: weights, a `Data` object, and a dataset that names its class."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data, InMemoryDataset
from torch_geometric.io import fs
from torch_geometric.nn import GCNConv
from twins import poison_torch

import safemodel
from safemodel.policy import Recipe

NAME = "torch_geometric.data.data.Data"


def graph(seed: int = 9) -> Data:
    torch.manual_seed(seed)
    edges = torch.tensor([[0, 1, 2], [1, 2, 0]])
    return Data(x=torch.randn(3, 4), edge_index=edges, y=torch.tensor([seed]))


def same_graph(left: Data, right: Data) -> None:
    assert left.keys() == right.keys()
    for key in left.keys():  # noqa: SIM118 - it is no dictionary
        assert torch.equal(left[key], right[key]), key


@pytest.mark.case("torch_geometric", "`state_dict` of a network")
def test_weights(case, tmp_path):
    torch.manual_seed(1)
    network = GCNConv(4, 2)
    file = tmp_path / "gcn.pt"
    torch.save(network.state_dict(), file)

    def load():
        again = GCNConv(4, 2)
        again.load_state_dict(fs.torch_load(str(file)))
        return again

    data = graph()
    again = case.loads(load)
    assert torch.equal(network(data.x, data.edge_index), again(data.x, data.edge_index))
    poison_torch(file)
    case.refuses(load, runs=True)
    case.note = "without the patch it falls back to `weights_only=False` by itself"


@pytest.mark.case(
    "torch_geometric", "a `Data` object", 'on_refuse="opaque"', {"on_refuse": "opaque"}
)
def test_data(case, tmp_path):
    data = graph()
    file = tmp_path / "data.pt"
    torch.save(data, file)
    with safemodel.patched(), pytest.raises(safemodel.ForbiddenGlobalError):
        torch.load(file)

    def load():
        found = torch.load(file)
        return Data.from_dict(found["_store"]["_mapping"])

    same_graph(data, case.loads(load))
    poison_torch(file)
    case.refuses(lambda: torch.load(file), runs=False, inert="not run; the rest loads")
    case.note = '`Data.from_dict(found["_store"]["_mapping"])`; refused by default'


def graph_of(args: tuple[object, ...], state: object) -> Data:
    """Make a graph of what its storage holds."""
    match state:
        case {"_store": dict(values)} if not args:
            return Data.from_dict(values)
    raise ValueError("not a Data")


def values_of(args: tuple[object, ...], state: object) -> dict[str, torch.Tensor]:
    """Return the tensors of a storage."""
    match state:
        case {"_mapping": dict(values)} if not args:
            if all(
                type(key) is str and isinstance(value, torch.Tensor)
                for key, value in values.items()
            ):
                return values
    raise ValueError("not a GlobalStorage of tensors")


DATA = {
    NAME: Recipe(make=graph_of),
    # The storage refers back to the graph that it is part of.
    "torch_geometric.data.storage.GlobalStorage": Recipe(
        make=values_of, ignores=("_parent",)
    ),
    "torch_geometric.data.data.DataEdgeAttr": Recipe(),
    "torch_geometric.data.data.DataTensorAttr": Recipe(),
}


@pytest.mark.case(
    "torch_geometric",
    "a `Data` object, as a `Data`",
    "policy=STRICT.with_extra(...)",
    {"policy": safemodel.STRICT.with_extra(DATA)},
)
def test_data_by_a_recipe(case, tmp_path):
    data = graph()
    file = tmp_path / "data.pt"
    torch.save(data, file)
    again = case.loads(lambda: torch.load(file))
    assert type(again) is Data
    same_graph(data, again)
    poison_torch(file)
    case.refuses(lambda: torch.load(file), runs=False)
    case.note = "recipe below"


class Graphs(InMemoryDataset):
    """A dataset as its documentation shows them."""

    @property
    def processed_file_names(self):
        return "graphs.pt"

    def process(self):
        self.save([graph(1), graph(2)], self.processed_paths[0])


@pytest.mark.case(
    "torch_geometric",
    "`InMemoryDataset.load`",
    "policy=STRICT.with_extra(...)",
)
def test_dataset(case, tmp_path):
    """Its file names the class, and calls nothing: a recipe says what that is."""
    made = Graphs(str(tmp_path))
    made.load(made.processed_paths[0])

    def load():
        again = Graphs(str(tmp_path))
        again.load(again.processed_paths[0])
        return again

    with safemodel.patched(), pytest.raises(safemodel.ForbiddenGlobalError) as refused:
        load()
    assert f"{refused.value.module}.{refused.value.name}" == NAME
    extra = {NAME: Recipe(stands_for=Data)}
    case.patch["policy"] = safemodel.STRICT.with_extra(extra)
    again = case.loads(load)
    assert len(made) == len(again) == 2
    for left, right in zip(made, again, strict=True):
        same_graph(left, right)
    poison_torch(tmp_path / "processed" / "graphs.pt")
    case.refuses(load, runs=True)
    case.note = f"the name is `{NAME}`"
