"""joblib and scikit-learn on Civis Platform, over `civis_futures.ContainerPoolExecutor`.

This room uses public names of `civis_futures` only: what it lacks there is a gap in that API.
The backend itself is not here yet.
"""

__all__: list[str] = []
