"""openvjepa: V-JEPA for the computer you have.

`__init__.pyi` lists the public names. They are imported when they are first used, so that `import openvjepa` is fast.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
