"""Ask a served cascade: answers with their tier and confidence, load, status.

from cascade_client import CascadeClient

with CascadeClient("localhost:8001", cascade="imagenet") as client:
    for answer in client.infer(["cat.jpg", "dog.jpg"]):
        print(answer.label_name, answer.confidence, answer.tier_name)
"""

from cascade_client.answer import Answer, Ranked
from cascade_client.client import AsyncCascadeClient, CascadeClient
from cascade_client.status import Part, ServedPolicy, Status, TierStatus

__all__ = [
    "Answer",
    "AsyncCascadeClient",
    "CascadeClient",
    "Part",
    "Ranked",
    "ServedPolicy",
    "Status",
    "TierStatus",
]
