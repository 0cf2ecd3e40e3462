"""A program as users of minGPT write it. It uses only the public interface, and learns to copy a
row of digits."""

import os
import sys

import torch

from mingpt.model import GPT
from mingpt.trainer import Trainer
from mingpt.utils import CfgNode, set_seed, setup_logging


class Copies(torch.utils.data.Dataset):
    """Four random digits, followed by the same four. Only the second four are targets."""

    def __init__(self):
        self.digits = torch.randint(10, (500, 4), generator=torch.Generator().manual_seed(5))

    def __len__(self):
        return len(self.digits)

    def __getitem__(self, i):
        row = self.digits[i].repeat(2)
        y = row[1:].clone()
        y[:3] = -1
        return row[:-1], y


def get_config():
    C = CfgNode(system=CfgNode(seed=3407, work_dir="./out"))
    C.model = GPT.get_default_config()
    C.model.model_type, C.model.vocab_size, C.model.block_size = "gpt-nano", 10, 7
    C.trainer = Trainer.get_default_config()
    C.trainer.learning_rate = 5e-4
    return C


def main(args):
    config = get_config()
    config.merge_from_args(args)
    print(config)
    setup_logging(config)
    set_seed(config.system.seed)
    data, model = Copies(), GPT(config.model)
    trainer = Trainer(config.trainer, model, data)

    def report(trainer):
        if trainer.iter_num % 10 == 0:
            print(f"iter_dt {trainer.iter_dt * 1000:.2f}ms; iter {trainer.iter_num}: "
                  f"train loss {trainer.loss.item():.5f}")

    trainer.set_callback("on_batch_end", report)
    trainer.run()
    model.eval()
    given = data.digits[:5].to(trainer.device)
    assert model.generate(given, 4, do_sample=False).shape == (5, 8)
    torch.save(model.state_dict(), os.path.join(config.system.work_dir, "model.pt"))


if __name__ == "__main__":
    main(sys.argv[1:])
