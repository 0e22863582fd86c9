"""A schedule for the learning rate, and an end when a validation set no longer gains."""

import sys

from fastbn import data, models, optim, train
from fastbn.optim import schedules
from fastbn.train import metrics

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 40

digits = data.load("digits")
net = models.convnet(digits.input_shape, rng=0)

steps = epochs * -(-len(digits.x_train) // 64)
rate = schedules.warmup(schedules.cosine(0.05, steps), steps=20)
optimizer = optim.SGD(optim.no_decay(net, 1e-3), lr=rate, momentum=0.9, nesterov=True)

trainer = train.Trainer(net, optimizer=optimizer, metrics=(metrics.top_k(2), metrics.f1))
stopping = train.EarlyStopping(patience=5)  # it puts back the best weights
history = trainer.fit(
    (digits.x_train, digits.y_train),
    epochs=epochs,
    batch_size=64,
    validation=0.15,
    callbacks=(stopping,),
    rng=0,
)
last = history.last
print(f"{len(history.epochs)} epochs, validation: loss {last.val_loss:.4f}, {last.metrics}")
accuracy = metrics.accuracy(net.predict(digits.x_test), digits.y_test)
print(f"test: accuracy {accuracy:.3f}")
