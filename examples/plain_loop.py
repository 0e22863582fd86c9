"""Train without a Trainer: groups, a schedule, clipping and the loop on one screen."""

import sys

from fastbn import data, models, nn, optim
from fastbn.optim import schedules
from fastbn.train import metrics

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 15

digits = data.load("digits")
batches = data.Batches(digits.x_train, digits.y_train, batch_size=32, rng=0)

net = models.mlp(digits.input_shape, rng=0)
loss = nn.CrossEntropyLoss(label_smoothing=0.1)
rate = schedules.one_cycle(peak=0.02, steps=epochs * len(batches))
optimizer = optim.AdamW(optim.no_decay(net, weight_decay=0.05), lr=rate)

for epoch in range(1, epochs + 1):
    for x, y in batches:
        value, dlogits = loss(net(x), y)
        net.backward(dlogits)
        optim.clip_grad_norm(net.parameters(), max_norm=1.0)
        optimizer.step()
    accuracy = metrics.accuracy(net.predict(digits.x_test), digits.y_test)
    print(f"epoch {epoch}: lr {rate(optimizer.steps):.4f}, accuracy {accuracy:.3f}")
