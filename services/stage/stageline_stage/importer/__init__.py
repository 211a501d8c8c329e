"""From a model's source to blocks: export once, clean the graph, cut it, store the pieces.

Only this package runs model code. `import_model` reads a source string, `import_module` takes a module at hand,
`export_module` gives the unsplit exported program that every split must equal, `unsplit` the same as a
module to call.
"""

from stageline_stage.importer.assemble import import_module
from stageline_stage.importer.export import Signature, export_module, unsplit
from stageline_stage.importer.sources import import_model

__all__ = ["Signature", "export_module", "import_model", "import_module", "unsplit"]
