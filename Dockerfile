# reidx and its plugins without GPU libraries (docs/install.md):
#     docker build -t reidx . && docker run --rm --shm-size 2g -v "$PWD:/work" reidx demo
FROM python:3.12-slim
WORKDIR /opt/reidx
COPY . .
RUN pip install --no-cache-dir -r requirements/cpu.txt
RUN pip install --no-cache-dir --no-deps mmengine==0.10.7 -e . $(printf -- '-e %s ' plugins/*/)
WORKDIR /work
ENTRYPOINT ["reidx"]
