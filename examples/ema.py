"""Average the weights during training, and take batch statistics anew for the averages."""

import sys

from fastbn import data, models, nn, optim
from fastbn.train import metrics

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 10

digits = data.load("digits")
batches = data.Batches(digits.x_train, digits.y_train, batch_size=32, rng=0)
net = models.convnet(digits.input_shape, rng=0)
loss, optimizer = nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
ema = optim.EMA(net, decay=0.98)


def accuracy() -> float:
    """Return the share of right answers on the test set."""
    return metrics.accuracy(net.predict(digits.x_test), digits.y_test)


for epoch in range(1, epochs + 1):
    for x, y in batches:
        value, dlogits = loss(net(x), y)
        net.backward(dlogits)
        optimizer.step()
        ema.update()
    with ema.applied():  # the weights of training come back after the block
        averaged = accuracy()
    print(f"epoch {epoch}: accuracy {accuracy():.3f}, of the averages {averaged:.3f}")

ema.apply(x for x, _ in batches)  # for good, with statistics that belong to the averages
print(f"accuracy {accuracy():.3f}")
