"""The training loop of the two source projects, written afresh: what a study is measured by.

Known of it: the network, the size of a batch, Adam, and torchvision's random transforms, in their order. Assumed, as in
notebooks of this kind: its FashionMNIST, a DataLoader without workers, fp32, loss and hits fetched at every step.
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from study.config import Augmentation, TrialConfig
from study.data import Bytes, Splits
from study.models import build_model

SOURCE = Augmentation(1, rotation=10, translation=0.1, flip=0.5)  # the second source's


class Images(Dataset[tuple[Tensor, int]]):
    """Images (N, 28, 28) and labels (N,), kept and given as torchvision's FashionMNIST does."""

    def __init__(self, images: Bytes, labels: Bytes, transform: transforms.Compose) -> None:
        self.images, self.labels, self.transform = torch.tensor(images), torch.tensor(labels), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index].numpy())), int(self.labels[index])


def random_changes(settings: Augmentation) -> list[nn.Module]:
    """The second source's augmentation; nothing where the strength is 0."""
    if settings.strength == 0:
        return []
    side = settings.strength * settings.translation
    return [
        transforms.RandomRotation(settings.strength * settings.rotation),
        transforms.RandomAffine(0, translate=(side, side)),
        transforms.RandomHorizontalFlip(settings.flip),
    ]


class SourcesLoop:
    """Trains `config` from `seed` as the second source did, with Adam."""

    def __init__(self, config: TrialConfig, seed: int, splits: Splits, device: torch.device) -> None:
        torch.manual_seed(seed)
        self.device = device
        standard = [transforms.ToTensor(), transforms.Normalize((config.mean,), (config.std,))]
        changed = transforms.Compose([*random_changes(config.augmentation), *standard])
        images = Images(splits.train_images, splits.train_labels, changed)
        self.train = DataLoader(images, batch_size=config.batch_size, shuffle=True)
        unchanged = Images(splits.val_images, splits.val_labels, transforms.Compose(standard))
        self.validation = DataLoader(unchanged, batch_size=config.batch_size)
        self.model = build_model(config.model, seed).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.optimizer.lr)
        self.criterion = nn.CrossEntropyLoss()

    def train_epoch(self) -> float:
        """Train one epoch; its mean loss, in nats."""
        self.model.train()
        running_loss, correct, seen = 0.0, 0, 0
        for images, labels in self.train:
            images, labels = images.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            outputs = self.model(images)
            loss = self.criterion(outputs, labels)
            loss.backward()
            self.optimizer.step()
            running_loss += loss.item() * len(labels)
            correct += (outputs.argmax(1) == labels).sum().item()
            seen += len(labels)
        return running_loss / seen

    @torch.no_grad()
    def evaluate(self) -> float:
        """Validation accuracy in [0, 1]."""
        self.model.eval()
        correct, seen = 0, 0
        for images, labels in self.validation:
            images, labels = images.to(self.device), labels.to(self.device)
            correct += (self.model(images).argmax(1) == labels).sum().item()
            seen += len(labels)
        return correct / seen


def per_image(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """The sources' augmentation, one image at a time, of a batch (B, 1, 28, 28) in [0, 1], as `augment` takes it."""
    change = transforms.Compose([*random_changes(settings), transforms.ToTensor()])
    pixels = (images * 255).byte().cpu().numpy()
    return torch.stack([change(Image.fromarray(image[0])) for image in pixels]).to(images.device)
